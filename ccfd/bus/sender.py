"""How does a message get to the broker, and when is it there?"""

import asyncio
import struct
from dataclasses import dataclass
from typing import Protocol

from aio_pika import Exchange, Message
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from ccfd.store.outbox import DEAD

# A quorum queue without its majority confirms nothing: then it is better to say so and begin anew.
CONFIRM_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes."""

    exchange: str
    routing_key: str
    message: Message


class TurnedDown(Exception):
    """The broker does not take this message, or it cannot be encoded; others it takes."""


class Sends(Protocol):
    """Publishes in the order of its calls."""

    async def send(self, outgoing: Outgoing) -> None:
        """Return when the broker has confirmed; raise `TurnedDown`, or what ends the channel."""


class Sender:
    """Publishes on one channel, which must be opened with `on_return_raises`."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._exchanges: dict[str, AbstractExchange] = {"": channel.default_exchange}

    async def send(self, outgoing: Outgoing) -> None:
        """Publish; return when the broker has confirmed."""
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                await self._exchange(outgoing.exchange).publish(
                    outgoing.message,
                    outgoing.routing_key,
                    # Nobody has to listen to results, and a `reply_to` may be gone. A letter
                    # without a queue would be lost: the session ends and declares it again.
                    mandatory=outgoing.exchange == DEAD,
                )
        except PublishError:
            raise
        except DeliveryError as exc:
            raise TurnedDown(f"the broker refused it: {exc}") from exc
        except (TypeError, ValueError, struct.error) as exc:
            raise TurnedDown(f"it cannot be encoded: {exc}") from exc

    def _exchange(self, name: str) -> AbstractExchange:
        found = self._exchanges.get(name)
        if found is None:
            # Declared by the topology; asking the broker once more would let others overtake.
            found = self._exchanges[name] = Exchange(self._channel, name)
        return found
