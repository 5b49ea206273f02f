"""What ccfd has to say, stored with what it is about, until the broker has confirmed it.

The rows stay as the log behind `GET /v1/events` until they are pruned.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from pydantic_core import to_json

from ccfd.store.bulk import insert_all
from ccfd.store.database import Transaction
from ccfd.store.tables import outbox

RESULTS = "ccf.results"
DEAD = "ccf.dead"
DEFAULT_EXCHANGE = ""
JSON = "application/json"
ERROR = "x-ccf-error"
DETAIL = "x-ccf-detail"
TOPIC = "outbox"


def timestamp(moment: datetime) -> str:
    """Format *moment* as RFC 3339 in UTC, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def encode(body: dict[str, Any]) -> bytes:
    """Encode a message's body as JSON."""
    return to_json(body)


class Message(NamedTuple):
    """A message of ccfd's own, for `ccf.results` and, if given, for the queue *reply_to*."""

    message_id: str
    routing_key: str
    correlation_id: str | None
    headers: dict[str, str]
    body: bytes
    slice: str | None
    reply_to: str | None

    def rows(self, now: datetime) -> list[dict[str, Any]]:
        """Return its rows of the table."""
        row = {
            "message_id": self.message_id,
            "exchange": RESULTS,
            "routing_key": self.routing_key,
            "type": self.routing_key,
            "correlation_id": self.correlation_id,
            "content_type": JSON,
            "headers": self.headers,
            "body": self.body,
            "slice": self.slice,
            "created_at": now,
        }
        if self.reply_to is None:
            return [row]
        return [row, {**row, "exchange": DEFAULT_EXCHANGE, "routing_key": self.reply_to}]


def message(
    body: dict[str, Any],
    *,
    routing_key: str,
    message_id: str | None = None,
    correlation_id: str | None = None,
    traceparent: str | None = None,
    reply_to: str | None = None,
) -> Message:
    """Make the message that says *body*."""
    return Message(
        message_id or str(uuid4()),
        routing_key,
        correlation_id,
        {"traceparent": traceparent} if traceparent else {},
        encode(body),
        body.get("slice") or body.get("owner"),
        reply_to,
    )


async def put(transaction: Transaction, messages: Iterable[Message]) -> None:
    """Publish *messages*, once committed."""
    rows = [row for one in messages for row in one.rows(transaction.now)]
    await insert_all(outbox, rows, transaction)
    transaction.wake(TOPIC)


def letter(
    raw: bytes,
    *,
    routing_key: str,
    message_id: str,
    content_type: str | None,
    error: str,
    detail: str,
) -> dict[str, Any]:
    """Return the row that sends the message *raw* to `ccf.dead`."""
    return {
        "message_id": message_id,
        "exchange": DEAD,
        "routing_key": routing_key,
        "type": routing_key,
        "content_type": content_type,
        "headers": {ERROR: error, DETAIL: detail[:1024]},
        "body": raw,
    }


async def bury(transaction: Transaction, letters: Sequence[dict[str, Any]]) -> None:
    """Publish *letters*, once committed."""
    await insert_all(
        outbox, [{**one, "created_at": transaction.now} for one in letters], transaction
    )
    transaction.wake(TOPIC)


async def notice(transaction: Transaction, kind: str, **fields: Any) -> None:
    """Publish a notice, which answers no request: *fields* stand at top level."""
    body = {"type": kind, **fields, "time": timestamp(transaction.now)}
    await put(transaction, [message(body, routing_key=kind)])
