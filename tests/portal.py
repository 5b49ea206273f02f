"""A portal as ccfd sees one: it publishes events to RabbitMQ and collects what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

Body = dict[str, Any]
TERMINAL = ("succeeded", "failed")


@dataclass
class Portal:
    """A connection to the broker that hears every result and notice."""

    channel: AbstractChannel
    heard: list[Body] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Portal]:
        """Connect to a broker whose exchanges ccfd has declared."""
        connection = await aio_pika.connect(url)
        async with connection:
            portal = cls(await connection.channel(publisher_confirms=True))
            queue = await portal.channel.declare_queue(exclusive=True)
            await queue.bind("ccf.results", "#")
            tag = await queue.consume(portal._hear, no_ack=True)
            try:
                yield portal
            finally:
                await queue.cancel(tag)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        async with self.news:
            self.heard.append(json.loads(message.body))
            self.news.notify_all()

    async def publish(self, event: str, data: Body, message_id: str | None = None) -> str:
        """Publish an event; return its message id."""
        identity = message_id or str(uuid4())
        exchange = await self.channel.get_exchange("ccf.events", ensure=False)
        await exchange.publish(
            aio_pika.Message(
                json.dumps(data).encode(),
                message_id=identity,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            routing_key=event,
        )
        return identity

    async def terminal(
        self, request: str, within: float = 150.0, show: Callable[[Body], None] | None = None
    ) -> Body:
        """Wait for the terminal result of *request*; *show* sees what comes before it."""
        seen = 0
        async with asyncio.timeout(within), self.news:
            while True:
                for body in self.heard[seen:]:
                    seen += 1
                    if body.get("request_id") != request:
                        continue
                    if show is not None:
                        show(body)
                    if body.get("outcome") in TERMINAL:
                        return body
                await self.news.wait()

    async def ask(
        self,
        event: str,
        within: float = 150.0,
        show: Callable[[Body], None] | None = None,
        **data: Any,
    ) -> Body:
        """Publish an event and wait for its terminal result."""
        return await self.terminal(await self.publish(event, data), within, show)
