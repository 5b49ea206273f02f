"""How a message becomes a request: stored once, whatever comes how often."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel
from sqlalchemy import insert, select, update

from ccfd.errors import CcfdError, Refused
from ccfd.requests.decode import Event, validated
from ccfd.store import outbox, tables
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
        """Store *event* as a request, or recognise it as a copy of one that is stored.

        A copy of an ended request gets its terminal result published again. What can never be
        carried out is stored as an ended request, with its failed result and its dead letter.
        """
        known = await transaction.one(
            select(tables.request).where(tables.request.c.request_id == event.message_id)
        )
        if known is not None:
            if known.terminal is None:
                return Stored(event.message_id, "copy")
            await Asked.of(known).answer(transaction, known.terminal)
            return Stored(event.message_id, "answered", known.terminal)
        try:
            handler, body = self.check(event)
        except CcfdError as exc:
            return await self._refuse(event, exc, transaction)
        key = await handler.key(body, transaction)
        asked = self._asked(event, event.type, key)
        seq = await transaction.scalar(
            insert(tables.request)
            .values(**_row(asked), state="queued", body=event.data, received_at=transaction.now)
            .returning(tables.request.c.seq)
        )
        if handler.cancels:
            await transaction.execute(
                update(tables.request)
                .where(
                    tables.request.c.key == key,
                    tables.request.c.seq < seq,
                    tables.request.c.state.in_(("queued", "running", "undoing")),
                    tables.request.c.type.in_(handler.cancels),
                )
                .values(cancelled=True)
            )
        await asked.accept(transaction)
        transaction.wake(REQUESTS)
        return Stored(event.message_id, "new")

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

    async def _refuse(self, event: Event, exc: CcfdError, transaction: Transaction) -> Stored:
        kind = event.type if self._is_type(event.type) else UNKNOWN
        asked = self._asked(event, kind, f"request:{event.message_id}")
        terminal = asked.failed(exc.document(), transaction.now, compensated=True)
        await transaction.execute(
            insert(tables.request).values(
                **_row(asked),
                state="failed",
                received_at=transaction.now,
                ended_at=transaction.now,
                terminal=terminal,
            )
        )
        await asked.answer(transaction, terminal)
        await outbox.bury(
            transaction,
            event.raw,
            routing_key=event.routing_key or event.type,
            message_id=event.message_id,
            content_type=event.content_type,
            error=exc.code,
            detail=exc.message,
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


def _row(asked: Asked) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__slots__}
