"""What falls due: reservations that expire, slices that end, records that are old enough.

The rows themselves are the timers, so nothing is lost by a restart.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, delete, exists, func, select, update

from ccfd.ipam import subnets
from ccfd.requests.decode import Event
from ccfd.store import outbox
from ccfd.store.database import Database, Transaction
from ccfd.store.outbox import timestamp
from ccfd.store.rounds import rounds
from ccfd.store.tables import outbox as outbox_table
from ccfd.store.tables import request, slices, workflow
from ccfd.workflow.intake import Intake

TOPIC = "timers"
POLL = 0.5
PRUNE_EVERY = 1200  # rounds
WARN = timedelta(hours=24)
BATCH = 100
HIGHEST = 2**63 - 1
"""Higher than the number of any row."""


class Timers:
    """Does what is due, within a second."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        *,
        retention: timedelta,
        expired: Callable[[int], None],
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        """Take also who is told of reservations that expired, and of each round."""
        self._database = database
        self._intake = intake
        self._retention = retention
        self._expired = expired
        self._turned = turned
        self._rounds = 0

    async def run(self) -> None:
        """Look twice a second, for ever."""
        await rounds(self._database, TOPIC, POLL, self.round)

    async def round(self) -> None:
        """Do what is due now."""
        self._turned()
        await self._database.run(self.subnets)
        await self._database.run(self.slices)
        if self._rounds % PRUNE_EVERY == 0:
            await self._database.run(self.prune)
        self._rounds += 1

    async def subnets(self, transaction: Transaction) -> None:
        """Expire reservations."""
        count = await subnets.expire(transaction, BATCH)
        if count:
            transaction.after(lambda: self._expired(count))

    async def slices(self, transaction: Transaction) -> None:
        """Announce slices that end within a day, and delete those whose time is over."""
        soon = await transaction.all(
            select(slices)
            .where(
                slices.c.expires_at <= transaction.now + WARN,
                ~slices.c.expiry_announced,
                slices.c.state != "deleting",
            )
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        for row in soon:
            await outbox.notice(
                transaction,
                "slice.expiring",
                slice=row.name,
                expires_at=timestamp(row.expires_at),
            )
            await transaction.execute(
                update(slices).where(slices.c.name == row.name).values(expiry_announced=True)
            )
        over = await transaction.all(
            select(slices)
            .where(slices.c.expires_at <= transaction.now, slices.c.state != "deleting")
            .order_by(slices.c.expires_at)
            .limit(BATCH)
            # Another daemon that looks at the same moment must not tell of it, too.
            .with_for_update(skip_locked=True)
        )
        for row in over:
            await self._delete(
                row.name, f"expiry:{row.name}:{row.created_at.isoformat()}", transaction
            )

    async def _delete(self, name: str, request_id: str, transaction: Transaction) -> None:
        """Send `slice.delete` once; a failed one is for the operator to repeat."""
        known = await transaction.scalar(
            select(request.c.seq).where(request.c.request_id == request_id)
        )
        if known is not None:
            return
        await outbox.notice(transaction, "slice.expired", slice=name)
        event = Event(
            message_id=request_id,
            type="slice.delete",
            data={"slice": name},
            correlation_id=request_id,
        )
        await self._intake.store(event, transaction)

    async def prune(self, transaction: Transaction) -> None:
        """Forget ended requests and published messages that are older than the retention."""
        before = transaction.now - self._retention
        first = _first(request.c.seq, request.c.received_at, before)
        await transaction.execute(
            delete(request).where(
                request.c.seq < first,
                request.c.ended_at < before,
                # A stuck request still says what has to be cleaned up.
                ~request.c.unfinished,
            )
        )
        its_request = exists().where(request.c.seq == workflow.c.seq)
        await transaction.execute(delete(workflow).where(workflow.c.seq < first, ~its_request))
        message = outbox_table.c
        await transaction.execute(
            delete(outbox_table).where(
                message.id < _first(message.id, message.created_at, before),
                message.created_at < before,
                message.published_at.is_not(None),
            )
        )


def _first(number: Column[int], made_at: Column[Any], since: datetime) -> ColumnElement[int]:
    """Return the lowest *number* of a row that was *made_at* the moment *since* or later.

    Numbers are given out in the order of time, by and large: this spares an index of times, in
    which each row would have to be entered.
    """
    first = select(number).where(made_at >= since).order_by(number).limit(1)
    return func.coalesce(first.correlate(None).scalar_subquery(), HIGHEST)
