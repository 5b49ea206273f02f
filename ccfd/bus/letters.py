"""What becomes of a message that nobody can be told about?"""

from datetime import datetime
from uuid import uuid4

from aio_pika import DeliveryMode, Message

from ccfd.bus.sender import Outgoing
from ccfd.requests.decode import Event
from ccfd.store.outbox import DEAD

ERROR = "invalid_message"
DETAIL = "the message has no message_id of 1 to 128 characters, so its sender cannot be answered"


def letter(event: Event, now: datetime) -> Outgoing:
    """Make the dead letter of a message without a usable `message_id`."""
    why = event.error.message if event.error is not None else None
    return Outgoing(
        DEAD,
        event.routing_key,
        Message(
            event.raw,
            message_id=str(uuid4()),
            type=event.routing_key,
            content_type=event.content_type,
            headers={
                "x-ccf-error": ERROR,
                "x-ccf-detail": (f"{DETAIL}; {why}" if why else DETAIL)[:1024],
            },
            delivery_mode=DeliveryMode.PERSISTENT,
            timestamp=now,
        ),
    )
