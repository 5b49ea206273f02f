"""How a workflow's state gets into the database, and out of it again."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.engine import Row

from ccfd.errors import CcfdError, Refused
from ccfd.store.database import Database, Transaction
from ccfd.store.tables import daemon, request
from ccfd.workflow.handler import Done, Handler, Handlers
from ccfd.workflow.intake import REQUESTS
from ccfd.workflow.journal import Journal
from ccfd.workflow.results import Asked
from ccfd.workflow.steps import Steps

# Told of every ended request: its type, its outcome, and the seconds since it was stored.
Count = Callable[[str, str, float], None]

RUNNING = ("running", "undoing")
OPEN = ("queued", *RUNNING)
ENDED = "ended:"


@dataclass(slots=True)
class Flow:
    """A workflow in memory: what was asked, what was planned, and where it stands."""

    asked: Asked
    handler: Handler[Any, Any]
    plan: dict[str, Any]
    steps: Steps
    journal: Journal
    owner: str
    epoch: int
    cancelled: bool = False
    answered: bool = False

    def is_mine(self) -> ColumnElement[bool]:
        """Return the condition under which this daemon may still record anything of it."""
        return and_(
            request.c.workflow_id == self.asked.workflow_id,
            request.c.owner == self.owner,
            request.c.epoch == self.epoch,
        )


class Records:
    """The stored side of the engine."""

    def __init__(self, database: Database, handlers: Handlers, count: Count) -> None:
        self._database = database
        self._handlers = handlers
        self._count = count

    async def waiting(self, limit: int) -> Sequence[int]:
        """Return, in stored order, the requests that are first in the queue of their key."""
        earlier = request.alias()
        async with self._database.read() as transaction:
            rows = await transaction.all(
                select(request.c.seq)
                .where(
                    request.c.state == "queued",
                    ~exists().where(
                        earlier.c.key == request.c.key,
                        earlier.c.seq < request.c.seq,
                        earlier.c.state.in_(OPEN),
                    ),
                )
                .order_by(request.c.seq)
                .limit(limit)
            )
        return [row.seq for row in rows]

    async def interrupted(self, me: str) -> Sequence[int]:
        """Return the requests under way that no living daemon but *me* carries out."""
        others = select(daemon.c.id).where(daemon.c.id != me)
        async with self._database.read() as transaction:
            rows = await transaction.all(
                select(request.c.seq)
                .where(request.c.state.in_(RUNNING), request.c.owner.not_in(others))
                .order_by(request.c.seq)
            )
        return [row.seq for row in rows]

    async def begin(self, seq: int, me: str) -> Flow | None:
        """Decide a waiting request, or take up an interrupted one, as daemon *me*.

        Returns None where nothing is left to do, or another living daemon does it.
        """
        return await self._database.run(lambda transaction: self._begin(seq, me, transaction))

    async def _begin(self, seq: int, me: str, transaction: Transaction) -> Flow | None:
        row = await transaction.one(select(request).where(request.c.seq == seq).with_for_update())
        if row is None or row.state not in OPEN:
            return None
        if row.state == "queued":
            return await self._decide(row, me, transaction)
        if row.owner == me:
            return self._flow(row, me, row.epoch)
        if await transaction.scalar(select(daemon.c.id).where(daemon.c.id == row.owner)):
            return None
        await transaction.execute(
            update(request).where(request.c.seq == seq).values(owner=me, epoch=request.c.epoch + 1)
        )
        return self._flow(row, me, row.epoch + 1)

    async def preview(self, handler: Handler[Any, Any], body: Any) -> dict[str, Any]:
        """Decide, and roll the decision back; return what it chose. Raises `Refused`."""

        async def look(transaction: Transaction) -> dict[str, Any]:
            decision = await handler.decide(body, transaction)
            if isinstance(decision, Done):
                raise Seen({"plan": None, "steps": [], "result": decision.result})
            steps = [asdict(step) for step in handler.steps(decision).flat]
            raise Seen({"plan": handler.write_plan(decision), "steps": steps})

        try:
            return await self._database.run(look)
        except Seen as seen:
            return seen.chosen

    async def break_off(self, seq: int, reason: str) -> None:
        """End a request that a defect of ccfd keeps from going on."""

        async def write(transaction: Transaction) -> None:
            row = await transaction.one(select(request).where(request.c.seq == seq))
            if row is None or row.state not in OPEN:
                return
            error = Refused("internal", f"{reason}; this is a defect of ccfd").document()
            asked, planned = Asked.of(row), row.plan is not None
            terminal = asked.failed(error, transaction.now, compensated=not planned)
            await self._end(asked, "stuck" if planned else "failed", terminal, transaction)

        await self._database.run(write)

    async def _decide(self, row: Row[Any], me: str, transaction: Transaction) -> Flow | None:
        asked, handler = Asked.of(row), self._handlers[row.type]
        body = handler.body.model_validate(row.body)
        try:
            if row.cancelled:
                raise cancelled()
            async with transaction.savepoint():
                decision = await handler.decide(body, transaction)
        except CcfdError as exc:
            details = await handler.refuse(body, exc, transaction)
            error = exc.document()
            error["details"] = {**error["details"], **details}
            terminal = asked.failed(error, transaction.now, compensated=True)
            await self._end(asked, "failed", terminal, transaction)
            return None
        if isinstance(decision, Done):
            terminal = asked.succeeded(decision.result, transaction.now)
            await self._end(asked, "succeeded", terminal, transaction)
            return None
        steps = handler.steps(decision)
        flow = Flow(
            asked,
            handler,
            handler.write_plan(decision),
            steps,
            Journal.fresh(steps),
            owner=me,
            epoch=row.epoch + 1,
        )
        await transaction.execute(
            update(request)
            .where(request.c.seq == row.seq)
            .values(
                state="running",
                owner=me,
                epoch=flow.epoch,
                started_at=transaction.now,
                plan=flow.plan,
                steps=steps.to_json(),
                journal=flow.journal.to_json(),
            )
        )
        return flow

    def _flow(self, row: Row[Any], me: str, epoch: int) -> Flow:
        return Flow(
            Asked.of(row),
            self._handlers[row.type],
            row.plan,
            Steps.from_json(row.steps),
            Journal.from_json(row.journal),
            owner=me,
            epoch=epoch,
            cancelled=row.cancelled,
            answered=row.terminal is not None,
        )

    async def record(self, flow: Flow) -> None:
        """Store where *flow* stands, and learn whether it has been cancelled."""

        async def write(transaction: Transaction) -> bool | None:
            cancelled: bool | None = await transaction.scalar(
                update(request)
                .where(flow.is_mine())
                .values(
                    journal=flow.journal.to_json(),
                    state="undoing" if flow.journal.backward else "running",
                )
                .returning(request.c.cancelled)
            )
            return cancelled

        told = await self._database.run(write)
        if told is None:
            raise LostError(flow.asked.request_id)
        flow.cancelled = told

    async def settle(self, flow: Flow) -> None:
        """End *flow*: everything is done."""

        async def write(transaction: Transaction) -> None:
            plan = flow.handler.read_plan(flow.plan)
            values = [record.value for record in flow.journal.records]
            result = await flow.handler.settle(plan, values, transaction)
            terminal = flow.asked.succeeded(result, transaction.now)
            await self._end(flow.asked, "succeeded", terminal, transaction, flow=flow)

        await self._database.run(write)

    async def forget(self, flow: Flow) -> None:
        """End *flow*: everything is undone."""

        async def write(transaction: Transaction) -> None:
            plan = flow.handler.read_plan(flow.plan)
            error = dict(flow.journal.error or {})
            details = await flow.handler.forget(plan, error, transaction)
            error["details"] = {**error.get("details", {}), **details}
            terminal = flow.asked.failed(error, transaction.now, compensated=True)
            await self._end(flow.asked, "failed", terminal, transaction, flow=flow)

        await self._database.run(write)

    async def abandon(self, flow: Flow) -> None:
        """End *flow* as it is: what remains keeps its claims until somebody cleans it up."""

        async def write(transaction: Transaction) -> None:
            state = "stuck" if flow.journal.backward else "failed"
            terminal = flow.asked.failed(
                flow.journal.error or {}, transaction.now, compensated=False
            )
            await self._end(flow.asked, state, terminal, transaction, flow=flow)

        await self._database.run(write)

    async def _end(
        self,
        asked: Asked,
        state: str,
        terminal: dict[str, Any],
        transaction: Transaction,
        *,
        flow: Flow | None = None,
    ) -> None:
        """Store the end of a request: of a workflow of ours, or of one that never began."""
        values: dict[str, Any] = {
            "state": state,
            "terminal": terminal,
            "ended_at": transaction.now,
            "owner": None,
        }
        if flow is None:
            condition = request.c.workflow_id == asked.workflow_id
            values["started_at"] = func.coalesce(request.c.started_at, transaction.now)
        else:
            condition = flow.is_mine()
            values["journal"] = flow.journal.to_json()
        if flow is not None and flow.answered:
            # Taken up again after its end: whoever asked has the answer already.
            del values["terminal"], values["ended_at"]
        received_at = await transaction.scalar(
            update(request)
            .where(condition, request.c.state.in_(OPEN))
            .values(**values)
            .returning(request.c.received_at)
        )
        if received_at is None:
            raise LostError(asked.request_id)
        transaction.wake(REQUESTS)
        if flow is not None and flow.answered:
            return
        seconds = (transaction.now - received_at).total_seconds()
        transaction.after(partial(self._count, asked.type, terminal["outcome"], seconds))
        await asked.answer(transaction, terminal)
        transaction.wake(ENDED + asked.request_id)


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
