"""How a message becomes a request: stored once, whatever comes how often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from ccfd.store.bulk import insert_new
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler, Handlers
from ccfd.workflow.ledger import is_open
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
        asked: dict[str, New] = {}
        for event in events:
            if event.message_id not in asked:
                asked[event.message_id] = await self._read(event, parent, transaction)
        # Nearly all are new: that others are not is found out by storing them.
        rows = [new.row for new in asked.values()]
        fresh = await insert_new(tables.request, rows, "request_id", transaction)
        known = await self._known([name for name in asked if name not in fresh], transaction)
        stored, answers = [], list[outbox.Message]()
        for event in events:
            name = event.message_id
            if name in fresh:
                fresh.discard(name)
                stored.append(await self._follow_up(asked[name], answers, transaction))
            else:
                stored.append(self._copy(name, known.get(name), answers))
        if answers:
            await outbox.put(transaction, answers)
        transaction.wake(REQUESTS)
        return stored

    async def _known(self, names: Sequence[str], transaction: Transaction) -> dict[str, Row[Any]]:
        if not names:
            return {}
        rows = await transaction.all(
            select(tables.request).where(tables.request.c.request_id.in_(names))
        )
        return {row.request_id: row for row in rows}

    @staticmethod
    def _copy(name: str, row: Row[Any] | None, answers: list[outbox.Message]) -> Stored:
        if row is None or row.terminal is None:
            return Stored(name, "copy")
        answers.append(Asked.of(row).answers(row.terminal))
        return Stored(name, "answered", row.terminal)

    async def _follow_up(
        self, new: "New", answers: list[outbox.Message], transaction: Transaction
    ) -> Stored:
        """Do what follows from a request that has been stored."""
        answers.append(new.answer)
        if new.cancels:
            await self._cancel(new, transaction)
        if new.letter is None:
            return Stored(new.asked.request_id, "new")
        await outbox.bury(transaction, [new.letter])
        transaction.after(partial(self._count, new.asked.type, new.letter["headers"][outbox.ERROR]))
        return Stored(new.asked.request_id, "refused", new.row["terminal"])

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

    async def _read(self, event: Event, parent: str | None, transaction: Transaction) -> "New":
        """Make a request of *event*: one that waits, or one that has ended before it began."""
        now = transaction.now
        try:
            handler, body = self.check(event)
        except CcfdError as exc:
            return self._refused(event, exc, now)
        key = await handler.key(body, transaction)
        asked = self._asked(event, event.type, key)._replace(parent=parent)
        row = {
            **asked._asdict(),
            "state": "queued",
            "unfinished": True,
            "body": event.data,
            "received_at": now,
            "ended_at": None,
            "terminal": None,
        }
        return New(asked, row, asked.accepts(now), handler.cancels)

    def _refused(self, event: Event, exc: CcfdError, now: datetime) -> "New":
        kind = event.type if self._is_type(event.type) else UNKNOWN
        asked = self._asked(event, kind, f"request:{event.message_id}")
        terminal = asked.failed(exc.document(), now, compensated=True)
        row = {
            **asked._asdict(),
            "state": "failed",
            "unfinished": False,
            "body": None,
            "received_at": now,
            "ended_at": now,
            "terminal": terminal,
        }
        letter = outbox.letter(
            event.raw,
            routing_key=event.routing_key or event.type,
            message_id=event.message_id,
            content_type=event.content_type,
            error=exc.code,
            detail=exc.message,
        )
        return New(asked, row, asked.answers(terminal), letter=letter)

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

    @staticmethod
    async def _cancel(new: "New", transaction: Transaction) -> None:
        later = tables.request.alias()
        seq = (
            select(later.c.seq).where(later.c.request_id == new.asked.request_id).scalar_subquery()
        )
        which = and_(
            tables.request.c.key == new.asked.key,
            tables.request.c.seq < seq,
            is_open(tables.request),
            tables.request.c.type.in_(new.cancels),
        )
        await cancel(which, transaction)


@dataclass(frozen=True, slots=True)
class New:
    """A message that becomes a request, unless one of its id is stored.

    `answer` is what its sender is told, `letter` (of one that is refused) a row for the outbox,
    `cancels` the types of requests before it that it cancels.
    """

    asked: Asked
    row: dict[str, Any]
    answer: outbox.Message
    cancels: frozenset[str] = frozenset()
    letter: dict[str, Any] | None = None


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
