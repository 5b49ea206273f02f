"""How ccfd hears at once that a domain has changed, whoever changed it.

Each host has one connection more, on which libvirtd tells of every domain's life
(virConnectDomainEventRegisterAny). It is in nobody's hands but those of libvirt's event thread
(`connections` says why that matters), and is made anew when it breaks: what happened meanwhile
was told to nobody, so all of the host is to be looked at then.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from ccfd.vt import api, threads

log = structlog.get_logger()

LOOK = 0.5
"""Seconds between two looks whether the connection still stands; keepalive cuts a dead one."""
PAUSE = 2.0
"""Seconds until a connection that could not be made is tried again."""
PATIENCE = 60.0
"""Seconds that one wait for libvirtd lasts. A frozen one is waited for without end, by one thread:
others would hang beside it."""


class Listener(Protocol):
    """Who is told; always in the thread of the event loop."""

    def changed(self, host: str, vm: str) -> None:
        """Hear that the domain with this UUID on *host* has changed."""

    def missed(self, host: str) -> None:
        """Hear that anything may have changed on *host*."""


class DomainEvents:
    """Listens to all hosts."""

    def __init__(self, uris: Mapping[str, str], connect: api.Connect) -> None:
        self._uris = uris
        self._connect = connect

    async def run(self, listener: Listener) -> None:
        """Tell *listener* of every change, for ever."""
        async with asyncio.TaskGroup() as group:
            for host, uri in self._uris.items():
                group.create_task(self._hear(host, uri, listener), name=f"events of {host}")

    async def _hear(self, host: str, uri: str, listener: Listener) -> None:
        loop = asyncio.get_running_loop()

        def changed(vm: str) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                loop.call_soon_threadsafe(listener.changed, host, vm)

        while True:
            await self._listen(host, partial(self._open, uri, changed), listener)
            await asyncio.sleep(PAUSE)

    async def _listen(
        self, host: str, opened: Callable[[], api.Subscription], listener: Listener
    ) -> None:
        """Listen on one connection until it breaks."""
        opening = threads.start(f"events-{host}", opened)
        try:
            while not await threads.finished(opening, PATIENCE):
                pass
            outcome = opening.result()
            if isinstance(outcome, threads.Raised):
                log.info("host's events are not heard", host=host, why=str(outcome.error))
                return
            listener.missed(host)
            log.info("host's events are heard", host=host)
            # There is nothing to wait for: api.connect says why no callback tells of the end.
            while outcome.value.connection.isAlive():  # noqa: ASYNC110
                await asyncio.sleep(LOOK)
            log.info("host's events were cut off", host=host)
        finally:
            opening.add_done_callback(_drop)

    def _open(self, uri: str, changed: Callable[[str], None]) -> api.Subscription:
        connection = self._connect(uri)
        try:
            return api.subscribe(connection, changed)
        except api.LibvirtError:
            api.disconnect(connection)
            raise


def _drop(opening: threads.Job[api.Subscription]) -> None:
    """Close a connection that is not listened on any more, in a thread: it may take its time."""
    outcome = opening.result()
    if isinstance(outcome, threads.Returned):
        threads.start("events-close", partial(api.unsubscribe, outcome.value))
