"""What does a delivery say?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from aiormq.abc import DeliveredMessage

from ccfd.errors import Refused
from ccfd.requests.decode import Event, from_amqp, is_message_id

log = structlog.get_logger()

# An AMQP short string (0-9-1, 4.2.5.3) has at most so many bytes.
SHORT = 255
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message of the broker and the number by which it is acknowledged."""

    tag: int
    event: Event

    @property
    def is_answerable(self) -> bool:
        """Tell whether it has an id: without one there is nobody to answer, nothing to store."""
        return is_message_id(self.event.message_id)


def read(message: DeliveredMessage) -> Delivery:
    """Take a delivery apart; whatever it holds, this does not fail."""
    properties = message.header.properties
    # The event is called as the message says, so that a name with a NUL is no known one; what
    # is stored and published again is clean.
    routing_key = message.routing_key or ""
    message_id = properties.message_id or ""
    content_type = _clean(properties.content_type)
    correlation_id = _clean(properties.correlation_id)
    reply_to = _queue(properties.reply_to)
    traceparent = _traceparent(properties.headers)
    try:
        event = from_amqp(
            message.body,
            routing_key=routing_key,
            message_id=message_id,
            content_type=content_type,
            correlation_id=correlation_id,
            reply_to=reply_to,
            traceparent=traceparent,
        )
    except Exception as exc:
        # A body that breaks the decoder would come again and again, and nothing after it.
        # No traceback: the one of a recursion takes longer to print than all else here.
        log.error("body meets a defect", request=message_id, error=repr(exc))  # noqa: TRY400
        event = Event(
            message_id=message_id,
            type=routing_key,
            data=None,
            correlation_id=correlation_id or message_id,
            reply_to=reply_to,
            traceparent=traceparent,
            error=Refused("invalid_message", f"the body cannot be read: {type(exc).__name__}"),
            raw=message.body,
            content_type=content_type,
        )
    return Delivery(
        tag=message.delivery_tag or 0,
        event=replace(event, routing_key=_clean(routing_key) or ""),
    )


def short(text: str) -> str:
    """Cut *text* to what an AMQP short string holds."""
    return text.encode("utf-8", "replace")[:SHORT].decode("utf-8", "ignore")


def _clean(text: str | None) -> str | None:
    """Make *text* fit for the database (no NUL) and for going out again."""
    return short(text.replace("\0", REPLACEMENT)) if text else None


def _queue(name: str | None) -> str | None:
    """Return the queue's name, or None where no queue can be called so."""
    return name if name and "\0" not in name and len(name.encode()) <= SHORT else None


def _traceparent(headers: Mapping[str, Any] | None) -> str | None:
    """Return the W3C trace context, or None where the header cannot be one."""
    value = (headers or {}).get("traceparent")
    return value if isinstance(value, str) and value and _clean(value) == value else None
