"""The stories of `slice.repair` and `orphan.remove`: requests that only the reconciler sends.

As requests they wait for their turn behind whatever else is asked of the slice, are gone on with
after a crash, and are told of by the history like any other.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ccfd.handlers import reconcile_rows, reconcile_things
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import is_claimed
from ccfd.handlers.reconcile_things import Thing, WantedSlice
from ccfd.requests.events import Body
from ccfd.settings import Settings
from ccfd.store import outbox
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler, Handlers, P
from ccfd.workflow.results import SLICE_KEY
from ccfd.workflow.steps import Steps

NOTICE = "reconcile.repaired"

Repaired = Callable[[str], None]
"""Told the kind of each thing that was repaired."""


class Differences(Body):
    """What differs of one slice; `slice` is empty where nothing tells whose it is."""

    slice: str
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What the slice shall have, and what of it is missing."""

    wanted: WantedSlice
    missing: tuple[Thing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalPlan:
    """What nothing claims, and the slice that it is tagged with."""

    owner: str
    orphans: tuple[Thing, ...]


def key_of(differences: Differences) -> str:
    """Return the slice's key, or that of the VM where no slice is known."""
    if differences.slice:
        return f"{SLICE_KEY}{differences.slice}"
    return f"vm:{differences.things[0].of}"


class _Repair(Handler[Differences, P]):
    """What both have in common: their key, and how they tell what they have done."""

    body = Differences

    def __init__(self, settings: Settings, repaired: Repaired) -> None:
        self._layout = Layout(settings)
        self._repaired = repaired

    async def key(self, body: Differences, transaction: Transaction) -> str:
        """Return the slice's key."""
        return key_of(body)

    @abstractmethod
    def done(self, plan: P) -> Sequence[Thing]:
        """Return what was repaired."""

    async def settle(
        self, plan: P, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Tell of each thing that was repaired."""
        told = [thing.model_dump(mode="json") for thing in self.done(plan)]
        for thing in told:
            body = {"type": NOTICE, **thing, "time": outbox.timestamp(transaction.now)}
            await outbox.put(transaction, [outbox.message(body, routing_key=NOTICE)])
            transaction.after(partial(self._repaired, thing["kind"]))
        return {"repaired": told}


class RepairSlice(_Repair[RepairPlan]):
    """Put back what a slice should have and has not."""

    event = "slice.repair"
    plan = RepairPlan

    async def decide(self, body: Differences, transaction: Transaction) -> RepairPlan | Done:
        """Keep of what is missing what the slice should still have."""
        known = await reconcile_rows.read_own(self._layout, body.slice, transaction)
        wanted = known.slices.get(body.slice)
        if wanted is None:
            return Done({"repaired": []})
        missing = tuple(thing for thing in body.things if thing in wanted.things())
        return RepairPlan(wanted=wanted, missing=missing) if missing else Done({"repaired": []})

    def steps(self, plan: RepairPlan) -> Steps:
        """List what will happen, in order."""
        return reconcile_things.put_back(plan.wanted, frozenset(plan.missing))

    def done(self, plan: RepairPlan) -> Sequence[Thing]:
        """Return what was missing."""
        return plan.missing


class RemoveOrphans(_Repair[RemovalPlan]):
    """Remove what carries our tags and nothing claims."""

    event = "orphan.remove"
    plan = RemovalPlan

    async def decide(self, body: Differences, transaction: Transaction) -> RemovalPlan | Done:
        """Keep of the orphans those that nothing has claimed meanwhile."""
        known = await reconcile_rows.read_own(self._layout, body.slice, transaction)
        orphans = tuple(one for one in body.things if not is_claimed(one, body.slice, known))
        if not orphans:
            return Done({"repaired": []})
        return RemovalPlan(owner=body.slice, orphans=orphans)

    def steps(self, plan: RemovalPlan) -> Steps:
        """List what will happen, in order."""
        return reconcile_things.remove(plan.owner, plan.orphans)

    def done(self, plan: RemovalPlan) -> Sequence[Thing]:
        """Return what was removed."""
        return plan.orphans


def repairs(settings: Settings, repaired: Repaired) -> Handlers:
    """Make the handlers of the reconciler's own requests, by the name of their event."""
    known = (RepairSlice(settings, repaired), RemoveOrphans(settings, repaired))
    return {handler.event: handler for handler in known}
