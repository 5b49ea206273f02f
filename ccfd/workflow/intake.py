"""How a message becomes a request: stored once, whatever comes how often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.engine import Row

from ccfd.errors import CcfdError, Refused
from ccfd.requests.decode import Event, validated
from ccfd.store import outbox, tables
from ccfd.store.bulk import insert_all
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler, Handlers
from ccfd.workflow.results import Asked

REQUESTS = "requests"
LONGEST_TYPE = 100
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a message."""

    request_id: str
    fate: Literal["new", "refused", "copy", "answered"]
    terminal: dict[str, Any] | None = None


class Intake:
    """Stores requests. A message is acknowledged when the transaction is committed."""

    def __init__(self, handlers: Handlers, count: Callable[[str, str], None]) -> None:
        """Take the handlers, and who is told of each refused message: its type and the code."""
        self._handlers = handlers
        self._count = count

    async def store(self, event: Event, transaction: Transaction) -> Stored:
        """Store one event; see `store_all`."""
        (stored,) = await self.store_all([event], transaction)
        return stored

    async def store_all(
        self, events: Sequence[Event], transaction: Transaction, *, parent: str | None = None
    ) -> list[Stored]:
        """Store each event as a request, or recognise it as a copy of one that is stored.

        A copy of an ended request gets its terminal result published again. What can never be
        carried out is stored as an ended request, with its failed result and its dead letter.
        A few statements for all of them: this is the way of every message. *parent* is the id of
        the workflow that awaits them.
        """
        known = await self._known(events, transaction)
        batch = Batch(transaction.now)
        stored = []
        for event in events:
            row = known.get(event.message_id)
            if row is not None:
                stored.append(self._copy(row, batch))
                continue
            if event.message_id in batch.ids:
                stored.append(Stored(event.message_id, "copy"))
                continue
            batch.ids.add(event.message_id)
            try:
                handler, body = self.check(event)
            except CcfdError as exc:
                stored.append(self._refuse(event, exc, batch, transaction))
            else:
                key = await handler.key(body, transaction)
                asked = replace(self._asked(event, event.type, key), parent=parent)
                batch.queue(asked, event.data, handler.cancels)
                stored.append(Stored(event.message_id, "new"))
        await batch.write(transaction)
        return stored

    async def _known(
        self, events: Sequence[Event], transaction: Transaction
    ) -> dict[str, Row[Any]]:
        ids = [event.message_id for event in events]
        rows = await transaction.all(
            select(tables.request).where(tables.request.c.request_id.in_(ids))
        )
        return {row.request_id: row for row in rows}

    @staticmethod
    def _copy(row: Row[Any], batch: "Batch") -> Stored:
        if row.terminal is None:
            return Stored(row.request_id, "copy")
        batch.messages += Asked.of(row).answers(row.terminal)
        return Stored(row.request_id, "answered", row.terminal)

    def schemas(self) -> dict[str, type[BaseModel]]:
        """Return the schemas of the bodies, by the events' types."""
        return {kind: handler.body for kind, handler in self._handlers.items()}

    def check(self, event: Event) -> tuple[Handler[Any, Any], Any]:
        """Find the event's handler and validate its body; raise `Refused`."""
        handler = self._handlers.get(event.type)
        if handler is None:
            raise Refused("unknown_type", f"no event is called {event.type[:LONGEST_TYPE]!r}")
        if event.data is None:
            raise event.error or Refused("invalid_message", "the body cannot be read")
        return handler, validated(handler.body, event.data)

    def _refuse(
        self, event: Event, exc: CcfdError, batch: "Batch", transaction: Transaction
    ) -> Stored:
        kind = event.type if self._is_type(event.type) else UNKNOWN
        asked = self._asked(event, kind, f"request:{event.message_id}")
        terminal = asked.failed(exc.document(), batch.now, compensated=True)
        batch.refuse(asked, terminal)
        batch.letters.append(
            outbox.letter(
                event.raw,
                routing_key=event.routing_key or event.type,
                message_id=event.message_id,
                content_type=event.content_type,
                error=exc.code,
                detail=exc.message,
            )
        )
        transaction.after(partial(self._count, kind, exc.code))
        return Stored(event.message_id, "refused", terminal)

    @staticmethod
    def _is_type(text: str) -> bool:
        return 1 <= len(text.encode()) <= LONGEST_TYPE and "\0" not in text

    def _asked(self, event: Event, kind: str, key: str) -> Asked:
        return Asked(
            request_id=event.message_id,
            type=kind,
            key=key,
            workflow_id=str(uuid4()),
            correlation_id=event.correlation_id,
            reply_to=event.reply_to,
            traceparent=event.traceparent,
            terminal_message_id=str(uuid4()),
        )


class Batch:
    """What a batch of events writes, in their order."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.ids: set[str] = set()
        self.messages: list[dict[str, Any]] = []
        self.letters: list[dict[str, Any]] = []
        self._queued: list[dict[str, Any]] = []
        self._refused: list[dict[str, Any]] = []
        self._cancelling: list[tuple[Asked, frozenset[str]]] = []

    def queue(self, asked: Asked, body: Any, cancels: frozenset[str]) -> None:
        """Have a request wait, which cancels those before it of the types *cancels*."""
        self._queued.append(
            {**_row(asked), "state": "queued", "body": body, "received_at": self.now}
        )
        self.messages += asked.accepts(self.now)
        if cancels:
            self._cancelling.append((asked, cancels))

    def refuse(self, asked: Asked, terminal: dict[str, Any]) -> None:
        """Have a request end before it begins."""
        row = {"state": "failed", "received_at": self.now, "ended_at": self.now}
        self._refused.append({**_row(asked), **row, "terminal": terminal})
        self.messages += asked.answers(terminal)

    async def write(self, transaction: Transaction) -> None:
        """Write all of it."""
        for rows in (self._queued, self._refused):
            if rows:
                await insert_all(tables.request, rows, transaction)
        for asked, cancels in self._cancelling:
            await self._cancel(asked, cancels, transaction)
        if self.messages:
            await outbox.put(transaction, self.messages)
        if self.letters:
            await outbox.bury(transaction, self.letters)
        if self._queued:
            transaction.wake(REQUESTS)

    @staticmethod
    async def _cancel(asked: Asked, cancels: frozenset[str], transaction: Transaction) -> None:
        later = tables.request.alias()
        seq = select(later.c.seq).where(later.c.request_id == asked.request_id).scalar_subquery()
        which = and_(
            tables.request.c.key == asked.key,
            tables.request.c.seq < seq,
            tables.request.c.state.in_(("queued", "running", "undoing")),
            tables.request.c.type.in_(cancels),
        )
        await cancel(which, transaction)


async def cancel(which: ColumnElement[bool], transaction: Transaction) -> None:
    """Have requests turned back: those that wait before they begin, others at their next record."""
    # In this order: who begins in between is seen by the second statement.
    rows = await transaction.all(
        update(tables.request).where(which).values(cancelled=True).returning(tables.request.c.seq)
    )
    await transaction.execute(
        update(tables.workflow)
        .where(tables.workflow.c.seq.in_([row.seq for row in rows]))
        .values(cancelled=True)
    )


def _row(asked: Asked) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__slots__}
