"""Dead letters: which messages could not be carried out, and how one is sent again.

A letter is called by its message's id. Those of messages without one are only in the queue
`ccfd.dead`.
"""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.requests.decode import from_amqp
from ccfd.store.database import Database, Transaction
from ccfd.store.outbox import DEAD, DETAIL, ERROR, timestamp
from ccfd.store.tables import outbox, request
from ccfd.workflow.intake import Intake

_LETTERS = select(outbox).where(outbox.c.exchange == DEAD)


class DeadLetters:
    """The letters that are remembered, for as long as the requests that they were."""

    def __init__(self, database: Database, intake: Intake) -> None:
        self._database = database
        self._intake = intake

    async def page(self, limit: int, after: int) -> dict[str, Any]:
        """Return a page, oldest first: `{"items": […], "next": cursor or null}`."""
        query = _LETTERS.where(outbox.c.id > after).order_by(outbox.c.id).limit(limit + 1)
        async with self._database.read() as transaction:
            rows = await transaction.all(query)
        more = len(rows) > limit
        items = [_document(row) for row in rows[:limit]]
        return {"items": items, "next": str(rows[limit - 1].id) if more else None}

    async def one(self, message_id: str) -> dict[str, Any]:
        """Return a letter with its body as text; raise `Refused` (`request_not_found`)."""
        async with self._database.read() as transaction:
            row = await self._find(message_id, transaction)
        return {
            **_document(row),
            "content_type": row.content_type,
            "body": row.body.decode("utf-8", "replace"),
        }

    async def requeue(self, message_id: str) -> str:
        """Store the message again, as a request with an id of its own; return that id.

        Whom it answers stays the same. Raises `Refused` (`request_not_found`).
        """
        fresh = str(uuid4())

        async def write(transaction: Transaction) -> None:
            row = await self._find(message_id, transaction)
            asked = await transaction.one(select(request).where(request.c.request_id == message_id))
            event = from_amqp(
                row.body,
                routing_key=row.routing_key,
                message_id=fresh,
                content_type=row.content_type,
                correlation_id=message_id if asked is None else asked.correlation_id,
                reply_to=None if asked is None else asked.reply_to,
                traceparent=None if asked is None else asked.traceparent,
            )
            # A CloudEvent says its old id.
            await self._intake.store(replace(event, message_id=fresh), transaction)

        await self._database.run(write)
        return fresh

    async def _find(self, message_id: str, transaction: Transaction) -> Row[Any]:
        row = await transaction.one(_LETTERS.where(outbox.c.message_id == message_id))
        if row is None:
            raise Refused("request_not_found", f"there is no dead letter {message_id!r}")
        return row


def _document(row: Row[Any]) -> dict[str, Any]:
    return {
        "message_id": row.message_id,
        "type": row.routing_key,
        "error": row.headers[ERROR],
        "detail": row.headers[DETAIL],
        "buried_at": timestamp(row.created_at),
    }
