"""How does ccfd stay connected to the broker?

ccfd owns the loop: a library that reconnects by itself brings the connection back, but not
always the consumer. Here everything of a connection ends with it, and is made anew.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

import structlog
from aio_pika import Connection
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from yarl import URL

from ccfd.bus import tolerant, topology
from ccfd.bus.inbox import ConsumerCancelled
from ccfd.errors import CcfdError

log = structlog.get_logger()

# Seconds. The broker and ccfd each notice a silent other one after two to three heartbeats.
HEARTBEAT = 10
CONNECT_WITHIN = 10.0
CLOSE_WITHIN = 5.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class Part(Protocol):
    """What works on a channel of its own for as long as the connection lasts."""

    async def run(self, channel: AbstractChannel) -> None:
        """Work until cancelled, or raise what ends the connection."""


class LostConnection(Exception):
    """The connection, a channel or a part has ended."""


EXPECTED = (*CONNECTION_EXCEPTIONS, TimeoutError, LostConnection, ConsumerCancelled, CcfdError)


class BrokerConnection:
    """Keeps *parts* running on connections to the broker at *url*."""

    def __init__(
        self,
        url: str,
        parts: Sequence[Part],
        *,
        random: Random,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        given = URL(url)
        self._url = given if "heartbeat" in given.query else given.update_query(heartbeat=HEARTBEAT)
        self._parts = parts
        self._random = random
        self._turned = turned
        self.connected = False
        self.problem = ""

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        tolerant.install()
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            begun = clock()
            self._turned()
            try:
                await self._session()
            except asyncio.CancelledError:
                # aiormq also cancels whoever waits for a connection while it is closed.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._note("the connection was closed")
            except EXPECTED as exc:
                self._note(reason(exc))
            except Exception as exc:
                log.exception("broker session is defective")
                self.problem = f"a defect of ccfd: {exc!r}"
            failures = 0 if clock() - begun > LONGEST_PAUSE else failures + 1
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Return seconds: longer each time, and never the same for two daemons."""
        pause: float = min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE)
        return pause * (0.5 + self._random.random() / 2)

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("broker is not connected", reason=problem, host=self._url.host)
        self.problem = problem

    async def _session(self) -> None:
        """Connect, and work until something ends; raise what it was."""
        # Not `aio_pika.connect`: it loses the object, which then cannot be closed, when it fails.
        connection = Connection(self._url, client_properties={"connection_name": "ccfd"})
        loss = Loss()
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await connection.connect()
                connection.close_callbacks.add(loss)
                await topology.declare(connection)
                channels = []
                for _ in self._parts:
                    channel = connection.channel(on_return_raises=True)
                    await channel.initialize()
                    channel.close_callbacks.add(loss)
                    channels.append(channel)
            self.connected, self.problem = True, ""
            log.info("broker is connected", host=self._url.host)
            await self._work(channels, loss)
        finally:
            self.connected = False
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_WITHIN):
                    await connection.close()

    async def _work(self, channels: Sequence[AbstractChannel], loss: "Loss") -> None:
        """Run every part on its channel; raise as soon as one of them, or a channel, ends."""
        try:
            async with asyncio.TaskGroup() as group:
                for part, channel in zip(self._parts, channels, strict=True):
                    task = group.create_task(part.run(channel), name=type(part).__name__)
                    # A task that aiormq has cancelled ends without telling its group.
                    task.add_done_callback(lambda _: loss.told.set())
                await loss.told.wait()
                raise LostConnection(reason(loss.cause))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None


class Loss:
    """Is told when the connection or a channel of it ends."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.cause: BaseException | None = None

    def __call__(self, _sender: object, cause: BaseException | None = None) -> None:
        """Keep the first cause."""
        self.cause = self.cause or cause
        self.told.set()


def reason(cause: BaseException | None) -> str:
    """Say for people why there is no connection."""
    if cause is None or isinstance(cause, asyncio.CancelledError):
        return "the connection was closed"
    if isinstance(cause, TimeoutError):
        return "the broker does not answer"
    return str(cause) or type(cause).__name__
