"""What must be on the broker for ccfd to work with it?"""

from dataclasses import dataclass

from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from ccfd.errors import Refused
from ccfd.store.outbox import DEAD, RESULTS

EVENTS = "ccf.events"
EXCHANGES = (EVENTS, RESULTS, DEAD)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, bound to all that its exchange gets."""

    name: str
    exchange: str
    arguments: dict[str, str | int | bool]


INBOX = Queue(
    "ccfd.events",
    EVENTS,
    {"x-queue-type": "quorum", "x-single-active-consumer": True},
)
LETTERS = Queue(
    "ccfd.dead",
    DEAD,
    {"x-queue-type": "quorum", "x-max-length": 100_000, "x-overflow": "drop-head"},
)


async def declare(connection: AbstractConnection) -> None:
    """Declare it all; what is there already stays as it is.

    Raises `Refused` (`invalid_state`) where something of the same name differs.
    """
    async with connection.channel() as channel:
        for name in EXCHANGES:
            try:
                await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)
            except ChannelPreconditionFailed as exc:
                raise _differs("exchange", name, exc) from exc
        for wanted in (INBOX, LETTERS):
            try:
                queue = await channel.declare_queue(
                    wanted.name, durable=True, arguments=dict(wanted.arguments)
                )
            except ChannelPreconditionFailed as exc:
                raise _differs("queue", wanted.name, exc) from exc
            await queue.bind(wanted.exchange, routing_key="#")


def _differs(kind: str, name: str, exc: ChannelPreconditionFailed) -> Refused:
    return Refused(
        "invalid_state",
        f"the {kind} {name} is not as ccfd needs it; empty it and delete it, ccfd makes it again:"
        f" {exc}",
    )
