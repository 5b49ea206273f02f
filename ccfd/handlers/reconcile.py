"""The reconciler: what hosts hold is compared with the database, and put right by requests.

docs/adr/0008 says why by requests, and what is left as it is.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol

import structlog
from sqlalchemy import func, select

from ccfd.handlers import meanwhile, reconcile_rows, vm_states
from ccfd.handlers.disturbances import Disturbances
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import (
    Findings,
    Present,
    Repair,
    Unfinished,
    compare,
)
from ccfd.handlers.reconcile_events import Differences, RemoveOrphans, RepairSlice, key_of
from ccfd.handlers.reconcile_things import Thing
from ccfd.network.guarding import WrongFlows
from ccfd.network.monitor import News
from ccfd.requests.decode import Event
from ccfd.settings import Settings
from ccfd.store.database import Database, Transaction
from ccfd.store.rounds import rounds
from ccfd.store.tables import request
from ccfd.workflow.intake import Intake
from ccfd.workflow.results import SLICE_KEY

log = structlog.get_logger()

TOPIC = "reconcile"
REMEMBERED = timedelta(hours=1)
"""How long failed repairs make the next one wait."""
RECENT = 10_000
"""Among how many of the last requests they are looked for."""
LONGEST_BACKOFF = 6
"""Doublings of the pause between failed repairs."""


MOST_VMS = 10
"""Unknown VMs that are removed without a person: more speak of a lost or wrong database."""

OTHER = {
    RepairSlice.event: RemoveOrphans.event,
    RemoveOrphans.event: RepairSlice.event,
}
"""A slice may lack something and have something too much: one look sends both requests."""


class Request(NamedTuple):
    """A request to be stored."""

    type: str
    key: str
    about: str
    data: dict[str, Any]


class Compared(NamedTuple):
    """What a look at all places gave: who said nothing and why, and the last request before it.

    `whole`: every place was seen, and no slice was being worked on, as those `left_alone` are.
    """

    findings: Findings
    silent: dict[str, str]
    since: int
    whole: bool
    left_alone: frozenset[str]


class Looks(Protocol):
    """Who looks at the hosts."""

    async def look(self) -> tuple[Present, dict[str, str]]:
        """Return what was seen, and who said nothing and why."""


class Guards(Protocol):
    """Who keeps the flows of guards, and needs no request for it."""

    async def look(self) -> tuple[list[WrongFlows], dict[str, str]]:
        """Return what guards have wrong, and which said nothing and why."""

    def hurry(self) -> None:
        """Put it right now."""


class Reconciler:
    """Sweeps every few seconds, and when it is told to, on the daemon that leads."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        intake: Intake,
        look: Looks,
        *,
        guards: Guards,
        leads: Callable[[], bool],
    ) -> None:
        self._layout = Layout(settings)
        self._every = settings.reconcile.every
        self._grace = settings.reconcile.grace
        self._database = database
        self._intake = intake
        self._look = look
        self._guards = guards
        self._leads = leads
        self._disturbances = Disturbances(partial(database.signals.wake, TOPIC), self._every)
        self._orphans: dict[Thing, float] = {}
        self._withheld = False
        self._strangers: set[str] = set()
        self._told: frozenset[Thing] = frozenset()

    async def run(self) -> None:
        """Sweep, for ever."""
        await rounds(self._database, TOPIC, self._every, self.round)

    def disturbed(self, what: str, where: str) -> None:
        """Sweep soon: *what* has happened *where*."""
        if self._leads():
            self._disturbances.tell(what, where)

    def hear(self, news: News) -> None:
        """Sweep soon where a switch is heard or was started anew: a `network.monitor.Listener`."""
        if news.what in ("heard", "restarted"):
            self.disturbed(f"switch is {news.what}", min(news.hosts))

    async def round(self) -> None:
        """Sweep once, if it is this daemon's business: orphans wait for their time."""
        if not self._leads():
            self._orphans.clear()
            return
        findings, _, since, whole, _ = await self._compare()
        self._disturbances.seen(whole=whole)
        self._tell_lost(findings.lost)
        due = await self._of_known_slices(self._due(findings.repairs))
        await self._act(replace(findings, repairs=tuple(due)), since, patient=True)
        for one in due:
            # Seen again it has been left anew, and has a time of its own.
            self._orphans.pop(one.thing, None)

    async def plan(self) -> dict[str, Any]:
        """Return what differs at this moment."""
        compared, flows = await self._compare_with_flows()
        return document(compared.findings, flows, compared.silent)

    async def apply(self) -> dict[str, Any]:
        """Put everything right now, without grace; return what differed, and the requests' ids."""
        compared, flows = await self._compare_with_flows()
        self._guards.hurry()
        sent = await self._act(compared.findings, compared.since, patient=False)
        return {**document(compared.findings, flows, compared.silent), "requests": sent}

    async def _compare_with_flows(self) -> tuple[Compared, list[WrongFlows]]:
        compared, (flows, silent) = await asyncio.gather(self._compare(), self._guards.look())
        settled = [one for one in flows if one.slice not in compared.left_alone]
        return compared._replace(silent=compared.silent | silent), settled

    async def _compare(self) -> Compared:
        """Read the rows, then look: what is stored meanwhile has a number after the last."""
        async with self._database.read() as transaction:
            since = await meanwhile.latest(transaction)
            wanted = await reconcile_rows.read(self._layout, transaction)
        present, silent = await self._look.look()
        whole = not silent and not wanted.left_alone
        silent |= {f"slice {name}": why for name, why in wanted.unplanned.items()}
        return Compared(compare(wanted, present), silent, since, whole, wanted.left_alone)

    def _due(self, repairs: Iterable[Repair]) -> list[Repair]:
        """Leave out the orphans that were not seen, look by look, for the time of grace."""
        now = asyncio.get_running_loop().time()
        found = {one.thing for one in repairs if one.action == "remove"}
        self._orphans = {thing: self._orphans.get(thing, now) for thing in found}
        many = len({thing.of for thing in found if thing.kind in ("domain", "disk")}) > MOST_VMS
        if many and not self._withheld:
            log.error(
                "too many VMs that the database does not know: is it the right one? "
                "ccfctl reconcile --apply removes them"
            )
        self._withheld = many
        return [
            one
            for one in repairs
            if one.action == "put back"
            or (not many and now - self._orphans[one.thing] >= self._grace)
        ]

    async def _of_known_slices(self, repairs: list[Repair]) -> list[Repair]:
        """Leave out the orphans of slices that no request of this database was ever about.

        After the loss of the database every slice looks like that: a person decides.
        """
        strangers = {one.slice for one in repairs if one.action == "remove" and one.slice}
        if strangers:
            async with self._database.read() as transaction:
                strangers -= await reconcile_rows.asked_about(strangers, transaction)
        for name in sorted(strangers - self._strangers):
            log.error(
                "hosts hold things of a slice that this database has never known: "
                "ccfctl recover --from-hosts takes it over, ccfctl reconcile --apply removes it",
                slice=name,
            )
        self._strangers = strangers
        return [one for one in repairs if one.slice not in strangers]

    def _tell_lost(self, lost: Iterable[Thing]) -> None:
        for thing in set(lost) - self._told:
            log.error("a VM's disk is missing: it cannot be put back", **thing.model_dump())
        self._told = frozenset(lost)

    async def _act(self, findings: Findings, since: int, *, patient: bool) -> list[str]:
        """Store what is to be done; return the ids of the requests."""
        sent = []
        for asked in [*grouped(findings.repairs), *map(deletion, findings.unfinished)]:
            identity = await self._database.run(partial(self._store, asked, since, patient))
            if identity:
                sent.append(identity)
                log.info("repair sent", request=identity)
        for seen in findings.observed:
            await self._database.run(partial(vm_states.follow, seen, since))
        return sent

    async def _store(
        self, asked: Request, since: int, patient: bool, transaction: Transaction
    ) -> str:
        """Store a request, unless something has happened to its slice since it was looked at."""
        other = OTHER.get(asked.type, "")
        if not await meanwhile.is_untouched(asked.key, since, transaction, but_by=other):
            return ""
        if patient and await self._is_early(asked, since, transaction):
            return ""
        # Daemons that look at the same time send the same id.
        identity = f"{asked.type}:{asked.about}:{since}"
        event = Event(
            message_id=identity, type=asked.type, data=asked.data, correlation_id=identity
        )
        stored = await self._intake.store(event, transaction)
        return identity if stored.fate == "new" else ""

    async def _is_early(self, asked: Request, since: int, transaction: Transaction) -> bool:
        """Tell whether the last such requests have failed, and the next is to wait."""
        failed = await transaction.one(
            select(func.count().label("number"), func.max(request.c.ended_at).label("last")).where(
                request.c.seq > since - RECENT,
                request.c.key == asked.key,
                request.c.type == asked.type,
                request.c.state == "failed",
                request.c.ended_at > transaction.now - REMEMBERED,
            )
        )
        if failed is None or not failed.number:
            return False
        pause = self._every * 2 ** min(failed.number, LONGEST_BACKOFF)
        return bool(transaction.now < failed.last + timedelta(seconds=pause))


def grouped(repairs: Iterable[Repair]) -> list[Request]:
    """Gather what one request can do: of one kind and slice (or VM, where no slice is known)."""
    groups: defaultdict[tuple[str, str, str], list[Thing]] = defaultdict(list)
    for one in repairs:
        kind = RepairSlice.event if one.action == "put back" else RemoveOrphans.event
        groups[kind, one.slice, "" if one.slice else one.thing.of].append(one.thing)
    requests = []
    for (kind, owner, _), things in groups.items():
        body = Differences(slice=owner, things=tuple(things))
        requests.append(Request(kind, key_of(body), key_of(body), body.model_dump(mode="json")))
    return requests


def deletion(unfinished: Unfinished) -> Request:
    """Ask for a deletion once more."""
    key = f"{SLICE_KEY}{unfinished.slice}"
    if unfinished.vm is None:
        return Request("slice.delete", key, key, {"slice": unfinished.slice})
    return Request("vm.delete", key, f"vm:{unfinished.vm}", {"vm": unfinished.vm})


def document(
    findings: Findings, flows: Iterable[WrongFlows], silent: Mapping[str, str]
) -> dict[str, Any]:
    """Return *findings* as the API shows them."""
    return {
        "repairs": [
            {
                "action": one.action,
                **one.thing.model_dump(mode="json"),
                "slice": one.slice or None,
                "why": one.why,
            }
            for one in findings.repairs
        ],
        "states": [
            {
                "slice": one.slice,
                "vm": one.vm,
                "from": one.was,
                "to": one.now,
                "reason": one.reason,
            }
            for one in findings.observed
        ],
        "unfinished": [{"slice": one.slice, "vm": one.vm} for one in findings.unfinished],
        "lost": [thing.model_dump(mode="json") for thing in findings.lost],
        "flows": [asdict(one) for one in flows],
        "unseen": dict(sorted(silent.items())),
    }
