"""What a person can do about a request: cancel it, have a stuck undo tried again, give it up."""

from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.store.database import Database, Transaction
from ccfd.store.tables import request, workflow
from ccfd.workflow.backlog import INTERRUPTED
from ccfd.workflow.handler import Handlers
from ccfd.workflow.intake import REQUESTS, cancel
from ccfd.workflow.journal import Journal
from ccfd.workflow.steps import Steps

NOBODY = "nobody"
"""The owner of a workflow that the next daemon to look takes up."""


class Interventions:
    """A person's hand on stored requests."""

    def __init__(self, database: Database, handlers: Handlers) -> None:
        self._database = database
        self._handlers = handlers

    async def cancel(self, request_id: str) -> None:
        """Have a request that waits or runs turned back at its next record, its children too.

        Raises `Refused`: `request_not_found`, `invalid_state` (it has ended, or only goes forward).
        """

        async def write(transaction: Transaction) -> None:
            row = await self._find(request_id, transaction)
            if row.state not in ("queued", "running"):
                raise Refused("invalid_state", f"{request_id} is {row.state}: nothing to cancel")
            if row.state == "running":
                steps = Steps.from_json(row.steps)
                journal = await self._journal(row, transaction)
                if journal.stage >= steps.pivot and steps.pivot < len(steps.stages):
                    raise Refused(
                        "invalid_state", f"{request_id} ({row.type}) only goes forward now"
                    )
            mine = or_(request.c.seq == row.seq, request.c.parent == row.workflow_id)
            await cancel(and_(mine, request.c.state.in_(("queued", "running"))), transaction)
            transaction.wake(REQUESTS)

        await self._database.run(write)

    async def retry(self, request_id: str) -> None:
        """Have a stuck undo tried again; the request's terminal result stays what it is.

        Raises `Refused`: `request_not_found`, `invalid_state` (it is not stuck).
        """

        async def write(transaction: Transaction) -> None:
            row = await self._stuck(request_id, transaction)
            busy = await transaction.scalar(
                select(request.c.request_id).join(workflow).where(workflow.c.key == row.key)
            )
            if busy is not None:
                raise Refused("invalid_state", f"{busy} runs for {row.key}: try again after it")
            journal = await self._journal(row, transaction)
            if not journal.backward:
                # A defect of ccfd had broken it off. It was answered as failed: it must not be
                # done after that, unless it only goes forward.
                journal.turn_back(row.terminal["error"], Steps.from_json(row.steps))
            journal.stuck = False
            await transaction.execute(
                update(request).where(request.c.seq == row.seq).values(state="undoing")
            )
            await transaction.execute(
                update(workflow)
                .where(workflow.c.seq == row.seq)
                .values(key=row.key, owner=NOBODY, journal=workflow.c.journal + journal.line())
            )
            transaction.wake(INTERRUPTED)
            transaction.wake(REQUESTS)

        await self._database.run(write)

    async def abandon(self, request_id: str) -> None:
        """Give back what a stuck request has claimed; what it left on hosts is not touched.

        Raises `Refused`: `request_not_found`, `invalid_state` (it is not stuck).
        """

        async def write(transaction: Transaction) -> None:
            row = await self._stuck(request_id, transaction)
            handler = self._handlers[row.type]
            error = (await self._journal(row, transaction)).error or {}
            await handler.forget(handler.read_plan(row.plan), error, transaction)
            await close(request.c.seq == row.seq, transaction)

        await self._database.run(write)

    async def _stuck(self, request_id: str, transaction: Transaction) -> Row[Any]:
        row = await self._find(request_id, transaction)
        if row.state != "stuck":
            raise Refused("invalid_state", f"{request_id} is {row.state}, not stuck")
        return row

    async def _journal(self, row: Row[Any], transaction: Transaction) -> Journal:
        log = await transaction.scalar(select(workflow.c.journal).where(workflow.c.seq == row.seq))
        return Journal.read(log, Steps.from_json(row.steps))

    async def _find(self, request_id: str, transaction: Transaction) -> Row[Any]:
        row = await transaction.one(
            select(request).where(request.c.request_id == request_id).with_for_update()
        )
        if row is None:
            raise Refused("request_not_found", f"there is no request {request_id!r}")
        return row


async def close(which: ColumnElement[bool], transaction: Transaction) -> None:
    """Note that nothing of these stuck requests is left to be undone."""
    await transaction.execute(
        update(request)
        .where(which, request.c.state == "stuck")
        .values(state="failed", unfinished=False)
    )
