"""What is said of a request: accepted, progress, succeeded, failed."""

from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy.engine import Row

from ccfd.store import outbox

SLICE_KEY = "slice:"


class Asked(NamedTuple):
    """Whom a request came from and what it is called: all that its results repeat."""

    request_id: str
    type: str
    key: str
    workflow_id: str
    correlation_id: str
    reply_to: str | None
    traceparent: str | None
    terminal_message_id: str
    parent: str | None = None

    @classmethod
    def of(cls, row: Row[Any]) -> "Asked":
        """Take it from a row of the table `request`."""
        return cls._make(_FIELDS(row))

    @property
    def slice(self) -> str | None:
        """The slice that the request is about, if it is about one."""
        return self.key.removeprefix(SLICE_KEY) if self.key.startswith(SLICE_KEY) else None

    def body(self, outcome: str, now: datetime, **fields: Any) -> dict[str, Any]:
        """Make the body of a result."""
        about = {"slice": self.slice} if self.slice is not None else {}
        return {
            "type": self.type,
            "outcome": outcome,
            "request_id": self.request_id,
            "workflow_id": self.workflow_id,
            **about,
            "time": outbox.timestamp(now),
            **fields,
        }

    def succeeded(self, result: dict[str, Any], now: datetime) -> dict[str, Any]:
        """Make the terminal result of a request that was carried out."""
        return self.body("succeeded", now, result=result)

    def failed(self, error: dict[str, Any], now: datetime, *, compensated: bool) -> dict[str, Any]:
        """Make the terminal result of a request that was not."""
        return self.body("failed", now, error=error, compensated=compensated)

    def accepts(self, now: datetime) -> outbox.Message:
        """Return the message that says that the request is stored."""
        return self._message(self.body("accepted", now))

    def answers(self, terminal: dict[str, Any]) -> outbox.Message:
        """Return the message that answers, under the same message id each time."""
        return self._message(terminal, message_id=self.terminal_message_id, reply_to=self.reply_to)

    def _message(self, body: dict[str, Any], **more: str | None) -> outbox.Message:
        return outbox.message(
            body,
            routing_key=f"{body['type']}.{body['outcome']}",
            correlation_id=self.correlation_id,
            traceparent=self.traceparent,
            **more,
        )


_FIELDS = attrgetter(*Asked._fields)
