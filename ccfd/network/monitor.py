"""What all switches look like at this moment, and who wants to hear when that changes.

One connection to each OVSDB server tells of every change (RFC 7047, "monitor"; docs/adr/0022), so
nobody polls. What is read here is as old as the switch's own word for it: states are told at once,
counters every few seconds. It is no base for decisions that must hold: those ask the database.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from ccfd.errors import CcfdError, Refused
from ccfd.model import names
from ccfd.network.jsonrpc import BadStreamError
from ccfd.network.mirror import COLUMNS, Mirror, WatchedBridge, WatchedPort
from ccfd.network.ovsdb import Ovsdb, Tables
from ccfd.settings import Settings

log = structlog.get_logger()

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
"""Seconds until a lost connection is made again: more each time, up to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What happened to a switch. `hosts` are all whose switch it is (`names.NODE` among them).

    `heard`: its database answers, at first or again, and anything may have changed meanwhile.
    `restarted`: ovs-vswitchd was started anew, and has forgotten all flows. `changed`: our bridges
    with the names `bridges`, their ports or controllers, are not what they were; counters do not
    count. `lost`: it does not answer.
    """

    what: Literal["heard", "restarted", "changed", "lost"]
    hosts: frozenset[str]
    bridges: frozenset[str] = frozenset()


Listener = Callable[[News], None]
"""Who is told; it must return at once, and raise nothing."""


class Monitor:
    """Watches the switches of all hosts and of the network node (`names.NODE`).

    Reading raises `Refused` (`host_not_found`) for a name that is not in the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout: float = 10,
        probe: float = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        places = [(names.NODE, settings.network_node.ovsdb)]
        places += [(host.name, host.ovsdb) for host in settings.host]
        self._clock = clock
        self._listeners: list[Listener] = []
        self._watched = [
            _Watched(
                Ovsdb(address, settings.tls, timeout=timeout, probe=probe),
                frozenset(name for name, elsewhere in places if elsewhere == address),
            )
            for address in dict.fromkeys(address for _, address in places)
        ]

    def listen(self, listener: Listener) -> None:
        """Tell *listener* from now on."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Watch all switches, for ever."""
        async with asyncio.TaskGroup() as group:
            for watched in self._watched:
                group.create_task(self._watch(watched), name=f"switch of {watched.name}")

    def problem(self, host: str) -> str | None:
        """Tell why the switch of *host* is not heard; None while it is."""
        return self._of(host).problem

    def heard(self) -> dict[str, bool]:
        """Tell of each host, and of the network node, whether its switch is heard."""
        return {host: one.problem is None for one in self._watched for host in sorted(one.hosts)}

    def bridge(self, host: str, name: str) -> WatchedBridge | None:
        """Return our bridge *name* on the switch of *host*, if it is heard and has it."""
        return self._of(host).mirror.bridge(name)

    def ports(self, host: str) -> Iterator[WatchedPort]:
        """Yield all ports of ours on the switch of *host*, those of hosts that share it too."""
        return self._of(host).mirror.ports(self._clock())

    def all_ports(self) -> Iterator[WatchedPort]:
        """Yield all ports of ours on all switches that are heard."""
        for watched in self._watched:
            yield from watched.mirror.ports(self._clock())

    def _of(self, host: str) -> "_Watched":
        found = next((one for one in self._watched if host in one.hosts), None)
        if found is None:
            raise Refused("host_not_found", f"host {host} is not in the settings")
        return found

    async def _watch(self, watched: "_Watched") -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await watched.ovsdb.monitor(COLUMNS, partial(self._take, watched))
            except CcfdError as exc:
                why = exc.message
            was = watched.problem
            watched.mirror, watched.problem = Mirror(), why
            if was != why:
                log.warning("switch is not heard", host=watched.name, why=why)
            if was is None:
                pause = FIRST_PAUSE
                self._tell(News(what="lost", hosts=watched.hosts))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take(self, watched: "_Watched", tables: Tables) -> None:
        first = watched.problem is not None
        try:
            changed = watched.mirror.apply(tables, None if first else self._clock())
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise BadStreamError(f"what it tells of its rows makes no sense: {exc!r}") from exc
        if first:
            watched.problem = None
            log.info("switch is heard", host=watched.name)
            self._tell(News(what="heard", hosts=watched.hosts))
            return
        if changed.restarted:
            log.info("switch was started anew", host=watched.name)
            self._tell(News(what="restarted", hosts=watched.hosts))
        if changed.bridges:
            self._tell(News(what="changed", hosts=watched.hosts, bridges=changed.bridges))

    def _tell(self, news: News) -> None:
        for listener in self._listeners:
            listener(news)


class _Watched:
    """One switch: its database, whose it is, and what it looks like (empty while not heard)."""

    def __init__(self, ovsdb: Ovsdb, hosts: frozenset[str]) -> None:
        self.ovsdb = ovsdb
        self.hosts = hosts
        self.name = min(hosts)
        self.mirror = Mirror()
        self.problem: str | None = "not asked yet"
