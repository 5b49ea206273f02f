"""Which slices' switches are connected to their controller: followed as the switches tell.

Every daemon watches, and stores what it sees; nobody asks. It is what the bridges say, whatever a
request is at: a slice's row follows them, and its document shows it where there is a controller.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy import select, true, update

from ccfd.errors import CcfdError
from ccfd.handlers.layout import Layout
from ccfd.model import names
from ccfd.network.mirror import WatchedBridge
from ccfd.network.monitor import News
from ccfd.settings import Settings
from ccfd.store.database import Database, Transaction
from ccfd.store.tables import slices, vm

log = structlog.get_logger()

PAUSE = 2.0
"""Seconds until a database that did not answer is asked again."""


class Switches(Protocol):
    """Who knows what switches look like."""

    def bridge(self, host: str, name: str) -> WatchedBridge | None:
        """Return a bridge, if its switch is heard and has it."""

    def problem(self, host: str) -> str | None:
        """Tell why a switch is not heard."""


class ControllerWatch:
    """Keeps `controller_connected` of the slices true.

    When a switch is heard others may be in a moment, as at the start of ccfd: they are given
    *settle* seconds before anything is concluded from their silence.
    """

    def __init__(
        self, settings: Settings, database: Database, switches: Switches, *, settle: float = 0.5
    ) -> None:
        layout = Layout(settings)
        self._switch_of = {host.name: layout.switch_of(host.name) for host in settings.host}
        self._places = {names.NODE, *self._switch_of.values()}
        self._database = database
        self._settle = settle
        self._switches = switches
        self._vnis: set[int] = set()
        self._controlled: set[int] = set()
        self._all = False
        self._come = asyncio.Event()

    def hear(self, news: News) -> None:
        """Have the slices of these bridges looked at; of a switch that came or went, all."""
        if news.what == "changed":
            self._vnis |= {vni for vni in map(names.vni_of, news.bridges) if vni is not None}
        else:
            self._all = True
        self._come.set()

    async def run(self) -> None:
        """Look whenever there are news, for ever."""
        while True:
            await self._come.wait()
            if self._all:
                await asyncio.sleep(self._settle)
            self._come.clear()
            some, everything = self._vnis, self._all
            self._vnis, self._all = set(), False
            try:
                await self.look(None if everything else some)
            except CcfdError as exc:
                log.info("connections to controllers unknown for now", reason=exc.message)
                self._vnis, self._all = self._vnis | some, self._all or everything
                self._come.set()
                await asyncio.sleep(PAUSE)

    async def look(self, vnis: set[int] | None) -> None:
        """Let the rows of the slices with *vnis* (None: of all) follow what is seen."""
        if vnis is not None:
            # Most news are of slices that never had a controller: no row has to be asked for.
            vnis = {vni for vni in vnis if vni in self._controlled or self._has_controllers(vni)}
        if vnis is None or vnis:
            seen = await self._database.run(partial(self._follow, vnis))
            self._controlled -= self._controlled if vnis is None else vnis
            self._controlled |= {vni for vni, now in seen.items() if now is not None}

    async def _follow(
        self, vnis: set[int] | None, transaction: Transaction
    ) -> dict[int, bool | None]:
        columns = slices.c
        which = true() if vnis is None else columns.vni.in_(vnis)
        rows = await transaction.all(
            select(columns.name, columns.vni, columns.controller_connected).where(which)
        )
        hosts: defaultdict[str, set[str]] = defaultdict(set)
        for one in await transaction.all(
            select(vm.c.slice, vm.c.host)
            .join(slices, columns.name == vm.c.slice)
            .where(which, vm.c.host.is_not(None))
            .distinct()
        ):
            hosts[one.slice].add(one.host)
        seen = {row.vni: self._connected(row.vni, hosts[row.name]) for row in rows}
        for row in rows:
            now = seen[row.vni]
            if now != row.controller_connected:
                await transaction.execute(
                    update(slices)
                    .where(columns.name == row.name, columns.vni == row.vni)
                    .values(controller_connected=now)
                )
                log.info("slice's controller", slice=row.name, connected=now)
        return seen

    def _connected(self, vni: int, hosts: Iterable[str]) -> bool | None:
        """Tell whether all bridges of a slice have their controllers; None where none has one."""
        if not self._has_controllers(vni):
            return None
        # A bridge that nobody hears of may have lost its controller.
        wanted = {names.NODE, *(self._switch_of[host] for host in hosts if host in self._switch_of)}
        unheard = any(self._switches.problem(place) is not None for place in wanted)
        return not unheard and all(
            bridge.controllers and all(one.connected for one in bridge.controllers)
            for bridge in self._bridges(vni)
        )

    def _has_controllers(self, vni: int) -> bool:
        return any(bridge.controllers for bridge in self._bridges(vni))

    def _bridges(self, vni: int) -> Iterator[WatchedBridge]:
        for place in self._places:
            bridge = self._switches.bridge(place, names.bridge(vni))
            if bridge is not None:
                yield bridge
