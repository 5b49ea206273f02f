"""A small domain for the engine: shelves that things are put on, exchanged, and cleared of.

`put`, `swap` (which has a pivot in its middle) and `clear` are handlers like the real ones; their
claims are rows. The hosts are a set of things. They fail as they are told to, remember which call
is on its way from whom, and note whatever no engine may ever ask of them.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

from pydantic import BaseModel
from sqlalchemy import (
    JSON,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row

from ccfd.errors import CcfdError, Refused, Transient
from ccfd.store.database import Transaction
from ccfd.store.tables import request
from ccfd.workflow.handler import Done, Handler, Handlers
from ccfd.workflow.intervene import close
from ccfd.workflow.steps import Effect, Effects, Step, Steps, each, in_order, only_forward
from tests.unit.workflow.lives import Life, Store

metadata = MetaData()
# `stages` lists what is claimed, stage by stage; `more` what a swap claims besides.
shelf = Table(
    "shelf",
    metadata,
    Column("key", String, primary_key=True),
    Column("state", String),
    Column("holder", String),
    Column("stages", JSON),
    Column("more", JSON),
)
# What was committed, in this order.
story = Table(
    "story",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String),
    Column("workflow", String),
    Column("what", String),
)
OWN = (
    "CREATE TABLE shelf (key TEXT PRIMARY KEY, state TEXT, holder TEXT, stages JSON, more JSON)",
    "CREATE TABLE story (id INTEGER PRIMARY KEY, key TEXT, workflow TEXT, what TEXT)",
)

Names = list[list[str]]
"""The names of things, stage by stage."""


@dataclass(frozen=True)
class Job:
    """What a step has to do: make or take a thing, for a workflow, in one of its stages."""

    workflow: str
    stage: int
    thing: str


@dataclass(frozen=True)
class Plan:
    """What is made, then what is taken."""

    key: str
    workflow: str
    make: Names
    take: Names

    @property
    def made(self) -> list[tuple[Job, ...]]:
        return self._jobs(self.make, 0)

    @property
    def taken(self) -> list[tuple[Job, ...]]:
        return self._jobs(self.take, len(self.make))

    def _jobs(self, stages: Names, first: int) -> list[tuple[Job, ...]]:
        return [
            tuple(Job(self.workflow, number, thing) for thing in stage)
            for number, stage in enumerate(stages, start=first)
        ]


class Body(BaseModel):
    """What is asked: about which shelf, under which name, how many things in each stage."""

    key: str
    name: str
    shape: tuple[int, ...] = ()

    def names(self) -> Names:
        return [
            [f"{self.name}/{stage}.{number}" for number in range(count)]
            for stage, count in enumerate(self.shape)
        ]


class ShelfHandler(Handler[Body, Plan]):
    """What all three events share."""

    body = Body
    plan = Plan

    async def key(self, body: Body, transaction: Transaction) -> str:
        return f"shelf:{body.key}"

    async def refuse(
        self, body: Body, error: CcfdError, transaction: Transaction
    ) -> dict[str, Any]:
        await tell(body.key, body.name, "refused", transaction)
        return {}

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        await tell(plan.key, plan.workflow, "settled", transaction)
        return {"values": list(values)}

    async def forget(
        self, plan: Plan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        await tell(plan.key, plan.workflow, "forgot", transaction)
        return {}


class Put(ShelfHandler):
    """Put things on an empty shelf."""

    event = "put"

    async def decide(self, body: Body, transaction: Transaction) -> Plan | Done:
        if await held(body.key, transaction) is not None:
            raise Refused("slice_exists", f"{body.key} is in use")
        names = body.names()
        await transaction.execute(
            insert(shelf).values(key=body.key, state="making", holder=body.name, stages=names)
        )
        await tell(body.key, body.name, "decided", transaction)
        return Plan(body.key, body.name, names, [])

    def steps(self, plan: Plan) -> Steps:
        return in_order(*(each("make", jobs) for jobs in plan.made))

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        await change(plan.key, transaction, state="full")
        return await super().settle(plan, values, transaction)

    async def forget(
        self, plan: Plan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        await transaction.execute(delete(shelf).where(shelf.c.key == plan.key))
        return await super().forget(plan, error, transaction)


class Swap(ShelfHandler):
    """Make new things; then, and from there it only goes forward, take the old ones away."""

    event = "swap"

    async def decide(self, body: Body, transaction: Transaction) -> Plan | Done:
        row = await held(body.key, transaction)
        if row is None or row.state != "full":
            raise Refused("invalid_state", f"{body.key} is not full")
        names = body.names()
        await change(body.key, transaction, state="swapping", holder=body.name, more=names)
        await tell(body.key, body.name, "decided", transaction)
        return Plan(body.key, body.name, names, list(reversed(row.stages)))

    def steps(self, plan: Plan) -> Steps:
        made = in_order(*(each("make", jobs) for jobs in plan.made))
        taken = only_forward(*(each("take", jobs) for jobs in plan.taken))
        return Steps(made.stages + taken.stages, pivot=made.pivot)

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        await change(plan.key, transaction, state="full", stages=plan.make, more=None)
        return await super().settle(plan, values, transaction)

    async def forget(
        self, plan: Plan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        row = await held(plan.key, transaction)
        assert row is not None
        # A clearing that failed may have taken some of the old things.
        state = "full" if row.state == "swapping" else row.state
        await change(plan.key, transaction, state=state, more=None)
        return await super().forget(plan, error, transaction)


class Clear(ShelfHandler):
    """Take everything away; whatever is being made is cancelled first."""

    event = "clear"
    cancels = frozenset({"put", "swap"})

    async def decide(self, body: Body, transaction: Transaction) -> Plan | Done:
        row = await held(body.key, transaction)
        if row is None:
            await tell(body.key, body.name, "settled", transaction)
            return Done({"values": []})
        await change(body.key, transaction, state="clearing", holder=body.name)
        await tell(body.key, body.name, "decided", transaction)
        return Plan(body.key, body.name, [], list(reversed(row.stages + (row.more or []))))

    def steps(self, plan: Plan) -> Steps:
        return only_forward(*(each("take", jobs) for jobs in plan.taken))

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        await transaction.execute(delete(shelf).where(shelf.c.key == plan.key))
        await close(request.c.key == f"shelf:{plan.key}", transaction)
        return await super().settle(plan, values, transaction)


HANDLERS: Handlers = {handler.event: handler for handler in (Put(), Swap(), Clear())}


async def held(key: str, transaction: Transaction) -> Row[Any] | None:
    return await transaction.one(select(shelf).where(shelf.c.key == key))


async def change(key: str, transaction: Transaction, **values: Any) -> None:
    await transaction.execute(update(shelf).where(shelf.c.key == key).values(**values))


async def tell(key: str, workflow: str, what: str, transaction: Transaction) -> None:
    await transaction.execute(insert(story).values(key=key, workflow=workflow, what=what))


class Fault(StrEnum):
    """How a call to a host ends."""

    FINE = "fine"
    TRANSIENT = "transient, and nothing happened"
    LOST = "transient, and it happened"
    REFUSED = "refused, and nothing happened"
    SPOILT = "refused, and it happened"
    DEFECT = "an error that nobody thought of"
    HANGS = "no answer until the test gives one"

    @property
    def lands(self) -> bool:
        return self in (Fault.FINE, Fault.LOST, Fault.SPOILT)

    def end(self) -> None:
        """Raise what the caller gets to see."""
        if self in (Fault.TRANSIENT, Fault.LOST):
            raise Transient("host_unreachable", self)
        if self in (Fault.REFUSED, Fault.SPOILT):
            raise Refused("hypervisor_error", self)
        if self is Fault.DEFECT:
            raise ZeroDivisionError(self)


class Verb(StrEnum):
    """What is done to a thing."""

    MAKE = "make"
    UNDO = "undo"
    TAKE = "take"


@dataclass(eq=False)
class Call:
    """One call to a host. An orphan's caller is gone, but the host may still do it."""

    by: Life
    lease: str
    verb: Verb
    job: Job
    answer: asyncio.Future[Fault] | None = None
    orphan: bool = False
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_current(self) -> bool:
        """Tell whether its daemon still waits for it, and nobody can have taken its work."""
        lease = self.by.lease
        return not (self.orphan or self.by.ended) and lease.held and lease.id == self.lease


class Request(TypedDict):
    """What the table `request` says of one, as far as the hosts look."""

    key: str
    state: str
    owner: str | None
    steps: str | None


class World:
    """What the hosts hold, and every call that is on its way.

    `strays` are things that appeared by a late call of a daemon whose work others have by now:
    the engine does not promise to find them (the reconciler does). `left` are those of workflows
    that a person gave up. `doubles` counts how often something was made that was there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.things: set[str] = set()
        self.strays: set[str] = set()
        self.left: set[str] = set()
        self.calls: list[Call] = []
        self.faults: defaultdict[tuple[Verb, str], list[Fault]] = defaultdict(list)
        self.begun: defaultdict[str, set[int]] = defaultdict(set)
        self.undone: set[str] = set()
        self.violations: list[str] = []
        self.doubles = 0
        self._known: set[tuple[str, int, Verb, Job]] = set()

    def effects(self, by: Life) -> Effects:
        """Join the hosts with the names of effects, for one daemon."""

        async def make(job: Job) -> dict[str, Any]:
            await self._call(by, Verb.MAKE, job)
            return {"made": job.thing}

        async def unmake(job: Job) -> None:
            await self._call(by, Verb.UNDO, job)

        async def take(job: Job) -> None:
            await self._call(by, Verb.TAKE, job)

        return {"make": Effect(Job, make, unmake), "take": Effect(Job, take, None)}

    async def _call(self, by: Life, verb: Verb, job: Job) -> None:
        call = Call(by, by.lease.id, verb, job)
        self._judge(call)
        self.begun[job.workflow].add(job.stage)
        if verb is Verb.UNDO:
            self.undone.add(job.workflow)
        await self._lane(call)
        self.calls.append(call)
        try:
            fault = await self._host(call)
        except asyncio.CancelledError:
            call.orphan = call in self.calls
            raise
        fault.end()
        self._known.add((call.lease, by.doubts, verb, job))

    async def _lane(self, call: Call) -> None:
        """Wait until earlier calls of the same daemon to the same thing have come to an end."""
        while earlier := self._earlier(call):
            waiter: asyncio.Future[None] = call.by.loop.create_future()
            earlier[0].waiters.append(waiter)
            await waiter

    def _earlier(self, call: Call) -> list[Call]:
        return [
            other
            for other in self.calls
            if other.orphan and other.by is call.by and other.job.thing == call.job.thing
        ]

    async def _host(self, call: Call) -> Fault:
        told = self.faults[call.verb, call.job.thing]
        fault = told.pop(0) if told else Fault.FINE
        if fault is Fault.HANGS:
            call.answer = call.by.loop.create_future()
            return await call.answer
        await asyncio.sleep(0)
        self.end(call, lands=fault.lands)
        await asyncio.sleep(0)
        return fault

    @property
    def hanging(self) -> list[Call]:
        """List the calls that wait for an answer."""
        return [
            call
            for call in self.calls
            if not call.orphan and call.answer is not None and not call.answer.done()
        ]

    @property
    def orphans(self) -> list[Call]:
        return [call for call in self.calls if call.orphan]

    def answer(self, call: Call, fault: Fault) -> None:
        """Have a call that hangs come to an end."""
        assert call.answer is not None
        self.end(call, lands=fault.lands)
        call.answer.set_result(fault)

    def end(self, call: Call, *, lands: bool) -> None:
        """Note that the host has done it, or that it never will."""
        self.calls.remove(call)
        if lands:
            self._land(call)
        for waiter in call.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _land(self, call: Call) -> None:
        thing = call.job.thing
        if call.verb is not Verb.MAKE:
            for where in (self.things, self.strays, self.left):
                where.discard(thing)
            return
        is_late = self._row(call.job.workflow)["owner"] != call.lease
        if thing in self.things:
            self.doubles += 1
        elif is_late:
            self.strays.add(thing)
        if not is_late:
            self.strays.discard(thing)
        self.things.add(thing)

    def give_up(self, workflow: str) -> None:
        """Note that nobody undoes what this workflow has made."""
        self.left |= {thing for thing in self.things if thing.startswith(f"{workflow}/")}

    def check(self) -> None:
        """Look for calls that go on although their workflow is over."""
        for call in self.calls:
            if call.is_current and self._row(call.job.workflow)["owner"] != call.lease:
                self._object(call, "goes on though its workflow is over")

    def _judge(self, call: Call) -> None:
        """Note everything that is wrong with beginning this call now."""
        job, row = call.job, self._row(call.job.workflow)
        if not call.by.lease.held:
            self._object(call, "begins without a lease")
        if row["state"] not in ("running", "undoing") or row["owner"] != call.lease:
            self._object(call, f"begins though its workflow is {row['state']} of {row['owner']}")
        current = [other.job for other in self.calls if other.is_current]
        others = {other.workflow for other in current} - {job.workflow}
        if any(self._row(other)["key"] == row["key"] for other in others):
            self._object(call, "begins beside another workflow of its key")
        if (call.lease, call.by.doubts, call.verb, job) in self._known:
            self._object(call, "is repeated, though it is known to be done")
        self._judge_order(call, Steps.from_json(json.loads(row["steps"] or "")))

    def _judge_order(self, call: Call, steps: Steps) -> None:
        """Note what should have happened before this call."""
        job, there = call.job, self.things - self.strays
        if call.verb is not Verb.UNDO:
            if job.workflow in self.undone:
                self._object(call, "goes forward again")
            for step in _flat(steps, range(job.stage)):
                if (step.args["thing"] in there) != (step.name == "make"):
                    self._object(call, f"begins before {step.name} {step.args['thing']}")
            return
        for other in self.calls:
            if other.is_current and other.verb is Verb.MAKE and other.job.workflow == job.workflow:
                self._object(call, f"begins while {other.job.thing} is being made")
        for step in _flat(steps, range(job.stage + 1, len(steps.stages))):
            if step.name == "make" and step.args["thing"] in there:
                self._object(call, f"begins while {step.args['thing']} is still there")

    def _object(self, call: Call, what: str) -> None:
        self.violations.append(f"{call.by.name}: {call.verb} {call.job} {what}")

    def _row(self, workflow: str) -> Request:
        row = self._store.requests("request_id = ?", workflow)[0]
        return Request(key=row["key"], state=row["state"], owner=row["owner"], steps=row["steps"])


def _flat(steps: Steps, stages: Iterable[int]) -> list[Step]:
    return [step for stage in stages for step in steps.stages[stage]]
