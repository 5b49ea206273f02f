"""Which hosts are up: each is asked every few seconds, and its capacity read when it comes up."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from sqlalchemy import select, update
from sqlalchemy.engine import Row

from ccfd.errors import CcfdError
from ccfd.settings import Host, Scheduler, Settings
from ccfd.store import outbox
from ccfd.store.database import Database, DatabaseAway, Transaction
from ccfd.store.tables import host as hosts

log = structlog.get_logger()

EVERY = 5.0
# One missed answer may be a busy moment.
MISSES = 2


class Capacity(Protocol):
    """What a host has."""

    @property
    def cpu(self) -> int:
        """Processors."""

    @property
    def ram(self) -> int:
        """MiB."""

    @property
    def disk(self) -> int:
        """GiB."""


class Hypervisors(Protocol):
    """Who can ask a host's libvirt."""

    async def probe(self, host: str) -> bool:
        """Tell whether it answers."""

    async def capacity(self, host: str) -> Capacity:
        """Tell what the host has."""


class Switches(Protocol):
    """Who can ask a host's switch."""

    async def probe(self, host: str) -> None:
        """Raise when it does not answer."""


class HostWatch:
    """Keeps the hosts' rows true. A host is up while its libvirt and its switch answer.

    *back* is told of each that comes up again.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        hypervisors: Hypervisors,
        switches: Switches,
        back: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._back = back
        self._hosts: Sequence[Host] = settings.host
        self._scheduler = settings.scheduler
        self._database = database
        self._hypervisors = hypervisors
        self._switches = switches
        self.up: dict[str, bool] = {}

    async def run(self) -> None:
        """Watch every host, for ever."""
        async with asyncio.TaskGroup() as group:
            for host in self._hosts:
                group.create_task(self._watch(host.name), name=f"watch {host.name}")

    async def _watch(self, name: str) -> None:
        misses = 0
        while True:
            problem = await self._ask(name)
            misses = misses + 1 if problem else 0
            was = self.up.get(name)
            now_up = misses == 0
            # At the start the first answer counts; later a host goes down at the second miss.
            sure = was is None or now_up or misses >= MISSES
            if sure and now_up != was:
                await self._turn(name, up=now_up, why=problem)
            await asyncio.sleep(EVERY if sure else 1.0)

    async def _ask(self, name: str) -> str:
        """Return why the host is not up, or nothing."""
        try:
            if not await self._hypervisors.probe(name):
                return "libvirt does not answer"
            await self._switches.probe(name)
        except CcfdError as exc:
            return exc.message
        return ""

    async def _turn(self, name: str, *, up: bool, why: str) -> None:
        try:
            capacity = await self._hypervisors.capacity(name) if up else None

            async def write(transaction: Transaction) -> None:
                row = await transaction.one(
                    select(hosts).where(hosts.c.name == name).with_for_update()
                )
                if row is None:
                    return
                values: dict[str, object] = {"up": up}
                if capacity is not None:
                    values |= limits(capacity, self._scheduler, row)
                await transaction.execute(update(hosts).where(hosts.c.name == name).values(values))
                if row.up != up:
                    alive = "draining" if row.draining else "up"
                    old, new = ("down", alive) if up else (alive, "down")
                    notice = {"host": name, "from": old, "to": new}
                    await outbox.notice(transaction, "host.state_changed", **notice)

            await self._database.run(write)
        except DatabaseAway as exc:
            log.warning("host state not stored", host=name, reason=exc.message)
            return
        except CcfdError as exc:
            log.warning("host capacity unknown", host=name, reason=exc.message)
            return
        was_down = self.up.get(name) is False
        self.up[name] = up
        log.info("host is up" if up else "host is down", host=name, why=why)
        if up and was_down:
            self._back(name)


def limits(capacity: Capacity, scheduler: Scheduler, row: Row[Any]) -> dict[str, int]:
    """Return the columns that hold what a host has and how much of it is given out.

    What is given out already stays claimed, also where a host has shrunk below it.
    """
    columns: dict[str, int] = {}
    for size, overcommit in (
        ("cpu", scheduler.cpu_overcommit),
        ("ram", scheduler.ram_overcommit),
        ("disk", scheduler.disk_overcommit),
    ):
        total: int = getattr(capacity, size)
        used: int = getattr(row, f"{size}_used")
        columns[f"{size}_total"] = total
        columns[f"{size}_limit"] = max(int(total * overcommit), used)
    return columns
