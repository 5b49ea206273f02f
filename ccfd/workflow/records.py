"""How a workflow's state gets into the database, and out of it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Row

from ccfd.errors import CcfdError, Refused
from ccfd.requests.decode import Event
from ccfd.store.database import Database, DatabaseAway, Transaction
from ccfd.store.outbox import TOPIC
from ccfd.store.tables import request, workflow
from ccfd.workflow.backlog import AWAITING, INTERRUPTED
from ccfd.workflow.handler import Child, Done, Handler, Handlers
from ccfd.workflow.intake import REQUESTS, Intake
from ccfd.workflow.journal import Journal
from ccfd.workflow.ledger import (
    OPEN,
    Answered,
    Begun,
    Ended,
    Ledger,
    Recorded,
    Undoing,
    must_wait,
)
from ccfd.workflow.results import Asked
from ccfd.workflow.steps import Steps

# Told of every ended request: its type, its outcome, and the seconds since it was stored.
Count = Callable[[str, str, float], None]

ENDED = "ended:"


@dataclass(slots=True)
class Flow:
    """A workflow in memory: what was asked, what was planned, and where it stands."""

    asked: Asked
    received_at: datetime
    handler: Handler[Any, Any]
    plan: dict[str, Any]
    steps: Steps
    journal: Journal
    seq: int
    owner: str
    epoch: int
    cancelled: bool = False
    answered: bool = False


class Records:
    """How each workflow is begun, gone on with, recorded and ended."""

    def __init__(
        self,
        database: Database,
        handlers: Handlers,
        intake: Intake,
        count: Count,
        *,
        concurrency: int,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._intake = intake
        self._count = count
        self._ledger = Ledger(database, concurrency)

    async def begin(self, row: Row[Any], me: str) -> Flow | None:
        """Decide a waiting request as daemon *me*.

        Returns None where nothing is left to do, it waits no more, or for another of its key.
        """
        try:
            return await self._database.run(partial(self._decide, row, me))
        except LostError:
            # What was read ahead may be another daemon's by now: that is nobody's fault.
            return None

    async def resume(self, row: Row[Any], me: str) -> Flow:
        """Go on with a request that was taken up, from what its row said before."""
        flow = self._flow(row, me, row.epoch + 1)
        if flow.journal.stage == 0 and flow.handler.children(flow.handler.read_plan(flow.plan)):
            await self._heed_children(flow)
        return flow

    async def _heed_children(self, flow: Flow) -> None:
        """Have no step begun where a child has failed: whoever goes on sees the same."""
        async with self._database.read() as transaction:
            ends = await _ends_of_children(flow, transaction)
        failed = [
            end["error"]
            for end in ends
            if "error" in end and end["error"]["code"] not in flow.handler.content_with
        ]
        if failed:
            flow.journal.never_begin(failed[0])

    async def _hold(self, row: Row[Any], transaction: Transaction) -> None:
        """Lock a waiting request: others who decide it wait, and then find it decided."""
        held = await transaction.one(
            select(request.c.state, request.c.cancelled, must_wait(request).label("must_wait"))
            .where(request.c.seq == row.seq)
            .with_for_update()
        )
        if held is None or held.state != "queued" or held.must_wait:
            raise LostError(row.request_id)
        if held.cancelled:
            raise cancelled()

    async def preview(self, handler: Handler[Any, Any], body: Any) -> dict[str, Any]:
        """Decide, and roll the decision back; return what it chose. Raises `Refused`."""

        async def look(transaction: Transaction) -> dict[str, Any]:
            decision = await handler.decide(body, transaction)
            if isinstance(decision, Done):
                raise Seen({"plan": None, "steps": [], "result": decision.result})
            requests = [
                {"type": child.type, "data": child.body} for child in handler.children(decision)
            ]
            steps = [step._asdict() for step in handler.steps(decision).flat]
            chosen = {"plan": handler.write_plan(decision), "steps": steps}
            raise Seen({**chosen, "requests": requests} if requests else chosen)

        try:
            return await self._database.run(look)
        except Seen as seen:
            return seen.chosen

    async def break_off(self, seq: int, reason: str) -> None:
        """End a request that a defect of ccfd keeps from going on."""

        async def write(transaction: Transaction) -> None:
            row = await transaction.one(
                select(request, workflow.c.owner, workflow.c.epoch)
                .outerjoin(workflow)
                .where(request.c.seq == seq)
            )
            if row is None or row.state not in OPEN:
                return
            asked, now = Asked.of(row), transaction.now
            error = Refused("internal", f"{reason}; this is a defect of ccfd").document()
            terminal = asked.failed(error, now, compensated=row.owner is None)
            if row.owner is None:
                await self._answer(row, "failed", terminal, transaction)
                return
            answers = row.terminal is None
            ended = Ended(
                seq=seq,
                owner=row.owner,
                epoch=row.epoch,
                line="",
                state="stuck",
                terminal=terminal if answers else None,
                now=now,
                message=asked.answers(terminal) if answers else None,
            )
            await self._end(ended, asked, row.received_at, transaction)

        await self._database.run(write)

    async def _decide(self, row: Row[Any], me: str, transaction: Transaction) -> Flow | None:
        asked, handler = Asked.of(row), self._handlers[row.type]
        body = handler.body.model_validate(row.body)
        try:
            if row.cancelled:
                raise cancelled()
            # Only a decision that looks into the database has to keep other daemons off.
            transaction.first = partial(self._hold, row, transaction)
            async with transaction.savepoint():
                decision = await handler.decide(body, transaction)
        except DatabaseAway:
            raise
        except CcfdError as exc:
            transaction.first = None
            details = await handler.refuse(body, exc, transaction)
            error = exc.document()
            error["details"] = {**error["details"], **details}
            terminal = asked.failed(error, transaction.now, compensated=True)
            await self._answer(row, "failed", terminal, transaction)
            return None
        if isinstance(decision, Done):
            terminal = asked.succeeded(decision.result, transaction.now)
            await self._answer(row, "succeeded", terminal, transaction)
            return None
        steps = handler.steps(decision)
        children = handler.children(decision)
        if children:
            await self._store(children, asked, transaction)
        flow = Flow(
            asked,
            row.received_at,
            handler,
            handler.write_plan(decision),
            steps,
            Journal.fresh(steps),
            seq=row.seq,
            owner=AWAITING if children else me,
            epoch=1,
        )
        begun = Begun(
            seq=flow.seq,
            key=asked.key,
            owner=flow.owner,
            plan=flow.plan,
            steps=steps.to_json(),
            now=transaction.now,
        )
        if await self._ledger.write(begun, transaction) is None:
            raise LostError(asked.request_id)
        return None if children else flow

    async def _store(
        self, children: Sequence[Child], asked: Asked, transaction: Transaction
    ) -> None:
        """Store the requests that *asked* awaits."""
        events = [
            Event(
                message_id=child.request_id,
                type=child.type,
                data=child.body,
                correlation_id=asked.correlation_id,
                traceparent=asked.traceparent,
            )
            for child in children
        ]
        stored = await self._intake.store_all(events, transaction, parent=asked.workflow_id)
        keys = await transaction.all(
            select(request.c.key).where(request.c.parent == asked.workflow_id)
        )
        if any(one.fate != "new" for one in stored) or asked.key in {row.key for row in keys}:
            raise ValueError(f"{asked.type} cannot await such requests: {children}")

    def _flow(self, row: Row[Any], me: str, epoch: int) -> Flow:
        steps = Steps.from_json(row.steps)
        return Flow(
            Asked.of(row),
            row.received_at,
            self._handlers[row.type],
            row.plan,
            steps,
            Journal.read(row.journal, steps),
            seq=row.seq,
            owner=me,
            epoch=epoch,
            cancelled=row.cancelled,
            answered=row.terminal is not None,
        )

    async def record(self, flow: Flow) -> None:
        """Store where *flow* stands, and learn whether it has been cancelled."""
        kind = Undoing if flow.journal.backward else Recorded
        told = await self._ledger.write(kind(flow.seq, flow.owner, flow.epoch, flow.journal.line()))
        if told is None:
            raise LostError(flow.asked.request_id)
        flow.journal.touched.clear()
        flow.cancelled = told

    async def heed(self, flow: Flow) -> None:
        """Learn whether *flow* has been cancelled while it waited for its turn."""
        mine = select(workflow.c.cancelled).where(
            workflow.c.seq == flow.seq,
            workflow.c.owner == flow.owner,
            workflow.c.epoch == flow.epoch,
        )
        async with self._database.read() as transaction:
            row = await transaction.one(mine)
        if row is None:
            raise LostError(flow.asked.request_id)
        flow.cancelled = row.cancelled
        # In its first epoch nobody else can have begun a step.
        if flow.cancelled and flow.epoch == 1 and flow.steps.pivot > 0:
            flow.journal.never_begin(cancelled().document())

    async def settle(self, flow: Flow) -> None:
        """End *flow*: everything is done."""

        async def write(transaction: Transaction) -> None:
            plan = flow.handler.read_plan(flow.plan)
            values = [record.value for record in flow.journal.records]
            result = await flow.handler.settle(plan, values, transaction)
            terminal = flow.asked.succeeded(result, transaction.now)
            await self._end_flow(flow, "succeeded", terminal, transaction)

        await self._database.run(write)

    async def forget(self, flow: Flow) -> None:
        """End *flow*: everything is undone."""

        async def write(transaction: Transaction) -> None:
            plan = flow.handler.read_plan(flow.plan)
            error = dict(flow.journal.error or {})
            details = await flow.handler.forget(plan, error, transaction)
            error["details"] = {**error.get("details", {}), **details}
            # What children did stays done; one of which nothing remains says so itself.
            ends = await _ends_of_children(flow, transaction)
            compensated = all(end.get("compensated") for end in ends)
            terminal = flow.asked.failed(error, transaction.now, compensated=compensated)
            await self._end_flow(flow, "failed", terminal, transaction)

        await self._database.run(write)

    async def abandon(self, flow: Flow) -> None:
        """End *flow* as it is: what remains keeps its claims until somebody cleans it up."""

        async def write(transaction: Transaction) -> None:
            state = "stuck" if flow.journal.backward else "failed"
            terminal = flow.asked.failed(
                flow.journal.error or {}, transaction.now, compensated=False
            )
            await self._end_flow(flow, state, terminal, transaction)

        await self._database.run(write)

    async def _answer(
        self, row: Row[Any], state: str, terminal: dict[str, Any], transaction: Transaction
    ) -> None:
        """Store the end of a request that never became a workflow."""
        asked = Asked.of(row)
        answered = Answered(
            seq=row.seq,
            state=state,
            terminal=terminal,
            now=transaction.now,
            message=asked.answers(terminal),
        )
        await self._end(answered, asked, row.received_at, transaction)

    async def _end_flow(
        self, flow: Flow, state: str, terminal: dict[str, Any], transaction: Transaction
    ) -> None:
        ended = Ended(
            seq=flow.seq,
            owner=flow.owner,
            epoch=flow.epoch,
            line=flow.journal.line(),
            state=state,
            # Taken up again after its end: whoever asked has the answer already.
            terminal=None if flow.answered else terminal,
            now=transaction.now,
            message=None if flow.answered else flow.asked.answers(terminal),
        )
        await self._end(ended, flow.asked, flow.received_at, transaction)

    async def _end(
        self,
        entry: Ended | Answered,
        asked: Asked,
        received_at: datetime,
        transaction: Transaction,
    ) -> None:
        """Store the end of a request, and tell who waits for it."""
        if await self._ledger.write(entry, transaction) is None:
            raise LostError(asked.request_id)
        transaction.wake(REQUESTS)
        if asked.parent is not None:
            transaction.wake(INTERRUPTED)
        if entry.terminal is None:
            return
        seconds = (transaction.now - received_at).total_seconds()
        transaction.after(partial(self._count, asked.type, entry.terminal["outcome"], seconds))
        transaction.wake(TOPIC)
        transaction.wake(ENDED + asked.request_id)


async def _ends_of_children(flow: Flow, transaction: Transaction) -> list[dict[str, Any]]:
    """Return the terminal results of the requests that *flow* has awaited, in their order."""
    rows = await transaction.all(
        select(request.c.terminal)
        .where(request.c.parent == flow.asked.workflow_id)
        .order_by(request.c.seq)
    )
    return [row.terminal for row in rows]


class Seen(CcfdError):
    """Carries a decision out of its transaction, which is rolled back."""

    def __init__(self, chosen: dict[str, Any]) -> None:
        super().__init__("internal", "a decision to look at")
        self.chosen = chosen


class LostError(Exception):
    """The request was ended by somebody else: whatever this daemon knows of it is stale."""


def cancelled() -> Refused:
    """Return the error of a request that another one cancelled."""
    return Refused("cancelled", "cancelled by a later request")
