"""A broker in memory, and deliveries as aiormq makes them."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from ccfd.bus.sender import Outgoing, TurnedDown

Judge = Callable[[Outgoing], BaseException | None]


class FakeSender:
    """Keeps what is sent, in order; *judge* says what is wrong with a message."""

    def __init__(self, judge: Judge = lambda _: None) -> None:
        self.sent: list[Outgoing] = []
        self.judge = judge

    async def send(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing)
        await asyncio.sleep(0)
        wrong = self.judge(outgoing)
        if wrong is not None:
            raise wrong

    def kinds(self) -> list[str]:
        return [outgoing.routing_key for outgoing in self.sent]


def nack(*kinds: str) -> Judge:
    """Turn down messages of these types."""
    return lambda outgoing: TurnedDown("nack") if outgoing.routing_key in kinds else None


def delivered(
    body: bytes = b"{}", *, routing_key: str = "subnet.create", tag: int = 1, **about: Any
) -> DeliveredMessage:
    """Make a delivery with the properties *about*."""
    about.setdefault("message_id", f"m{tag}")
    return DeliveredMessage(
        delivery=spec.Basic.Deliver("consumer", tag, False, "ccf.events", routing_key),
        header=ContentHeader(properties=spec.Basic.Properties(**about), body_size=len(body)),
        body=body,
        channel=None,  # type: ignore[arg-type]  # a delivery is only read
    )
