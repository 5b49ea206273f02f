"""Which VMs have changed: each is looked at as soon as its host tells, whoever changed it.

Every daemon watches; of those that see the same change one stores it, and tells. What a host
cannot tell, the sweep finds.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy import select

from ccfd.errors import CcfdError
from ccfd.handlers import meanwhile, vm_states
from ccfd.handlers import reconcile_things as things
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_events import Differences, RepairSlice
from ccfd.handlers.vm_states import Observed, Vm
from ccfd.requests.decode import Event
from ccfd.settings import Settings
from ccfd.store.database import Database, Transaction
from ccfd.store.tables import request, slices, vm
from ccfd.vt.domains import Found
from ccfd.workflow.intake import Intake
from ccfd.workflow.ledger import is_open
from ccfd.workflow.results import SLICE_KEY

log = structlog.get_logger()

AGAIN = 0.5
"""Seconds until a VM is looked at again whose slice a request is at work on."""
PAUSE = 2.0
"""Seconds until a host, or the database, that did not answer is asked again."""


class Domains(Protocol):
    """Who can look at a host's domains."""

    async def find(self, host: str, vm: str) -> Found | None:
        """Return the domain of one VM."""

    async def inventory(self, host: str) -> tuple[Found, ...]:
        """Return the domains of all."""


@dataclass(slots=True)
class _News:
    """What is to be looked at on a host: these VMs, or all."""

    vms: set[str] = field(default_factory=set)
    all: bool = False
    come: asyncio.Event = field(default_factory=asyncio.Event)


class VmWatch:
    """Keeps the VMs' states true: a `vt.events.Listener`.

    *heard* is told of each host whose libvirt is heard, at first or again.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        intake: Intake,
        domains: Domains,
        heard: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._heard = heard
        self._layout = Layout(settings)
        self._database = database
        self._intake = intake
        self._domains = domains
        self._news = {host.name: _News() for host in settings.host}

    def changed(self, host: str, vm: str) -> None:
        """Have one VM looked at."""
        self._news[host].vms.add(vm)
        self._news[host].come.set()

    def missed(self, host: str) -> None:
        """Have all VMs of a host looked at."""
        self._look_at_all(host)
        self._heard(host)

    def _look_at_all(self, host: str) -> None:
        self._news[host].all = True
        self._news[host].come.set()

    async def run(self) -> None:
        """Look wherever there are news, for ever; one host's trouble is not another's."""
        async with asyncio.TaskGroup() as group:
            for host in self._news:
                group.create_task(self._watch(host), name=f"VMs of {host}")

    async def _watch(self, host: str) -> None:
        news = self._news[host]
        while True:
            await news.come.wait()
            news.come.clear()
            everything, some = news.all, news.vms
            news.all, news.vms = False, set()
            try:
                busy = await self.look(host, None if everything else some)
            except CcfdError as exc:
                log.info("VMs' states unknown for now", host=host, reason=exc.message)
                self._look_at_all(host)
                await asyncio.sleep(PAUSE)
                continue
            if busy:
                news.vms |= busy
                asyncio.get_running_loop().call_later(AGAIN, news.come.set)

    async def look(self, host: str, which: Collection[str] | None) -> set[str]:
        """Compare VMs of *host* (None: all) with what is seen, and let their rows follow.

        Returns those that a request is at work on: what is seen of them may be what it does.
        """
        since, known, busy = await self._read(host, which)
        found = await self._see(host, known.keys() - busy, everything=which is None)
        for one in found:
            differs = vm_states.observed(known[one.vm], one)
            if differs is None:
                continue
            fate = await self._database.run(partial(self._follow, differs, host, since))
            if fate == "told":
                log.info("VM has changed", vm=one.vm, was=differs.was, now=differs.now)
            elif fate == "busy":
                busy.add(one.vm)
        return busy

    async def _follow(self, seen: Observed, host: str, since: int, transaction: Transaction) -> str:
        """Let a VM's row follow; have the network of one that somebody else started repaired.

        The new link looks well to the switch that has the old one open: no sweep would find it
        (docs/adr/0006).
        """
        fate = await vm_states.follow(seen, since, transaction)
        if fate == "told" and seen.began:
            vni = await transaction.scalar(select(slices.c.vni).where(slices.c.name == seen.slice))
            bridge = things.bridge(vni, self._layout.switch_of(host))
            body = Differences(slice=seen.slice, things=(bridge,))
            identity = f"{RepairSlice.event}:{seen.vm}:{since}"
            event = Event(
                message_id=identity,
                type=RepairSlice.event,
                data=body.model_dump(mode="json"),
                correlation_id=identity,
            )
            await self._intake.store(event, transaction)
        return fate

    async def _read(
        self, host: str, which: Collection[str] | None
    ) -> tuple[int, dict[str, Vm], set[str]]:
        """Return the last request's number, the VMs, and which of them are being worked on."""
        chosen = select(vm.c.id, vm.c.slice, vm.c.state).where(vm.c.host == host)
        if which is not None:
            chosen = chosen.where(vm.c.id.in_(which))
        async with self._database.read() as transaction:
            since = await meanwhile.latest(transaction)
            rows = await transaction.all(chosen)
            keys = {f"{SLICE_KEY}{row.slice}" for row in rows}
            open_ = await transaction.all(
                select(request.c.key).where(is_open(request), request.c.key.in_(keys))
            )
        taken = {row.key for row in open_}
        return (
            since,
            {row.id: Vm(slice=row.slice, host=host, state=row.state) for row in rows},
            {row.id for row in rows if f"{SLICE_KEY}{row.slice}" in taken},
        )

    async def _see(
        self, host: str, wanted: Collection[str], *, everything: bool
    ) -> Iterable[Found]:
        if everything:
            return [one for one in await self._domains.inventory(host) if one.vm in wanted]
        found = [await self._domains.find(host, identity) for identity in wanted]
        return [one for one in found if one is not None]
