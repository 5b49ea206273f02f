"""What a portal does: it publishes events and reads results."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq import spec
from aiormq.abc import ChannelFrame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader

WITHIN = 60.0


@dataclass
class Portal:
    """A client of the broker that keeps every message it gets."""

    channel: AbstractChannel
    results: list[AbstractIncomingMessage] = field(default_factory=list)
    letters: list[AbstractIncomingMessage] = field(default_factory=list)
    replies: list[AbstractIncomingMessage] = field(default_factory=list)
    reply_to: str = ""
    queues: dict[str, str] = field(default_factory=dict)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator[Self]:
        """Connect, and listen to results, letters and a reply queue of its own."""
        connection = await aio_pika.connect(url)
        try:
            portal = cls(await connection.channel(on_return_raises=True))
            await portal._listen("ccf.results", portal.results)
            await portal._listen("ccf.dead", portal.letters)
            portal.reply_to = await portal._listen("", portal.replies)
            yield portal
        finally:
            await connection.close()

    async def _listen(self, exchange: str, kept: list[AbstractIncomingMessage]) -> str:
        queue = await self.channel.declare_queue(exclusive=True)
        if exchange:
            await self.channel.declare_exchange(exchange, "topic", durable=True)
            await queue.bind(exchange, "#")

        self.queues[exchange] = queue.name

        async def keep(message: AbstractIncomingMessage) -> None:
            kept.append(message)
            self._came.set()

        await queue.consume(keep, no_ack=True)
        return queue.name

    async def listen_no_more(self, exchange: str) -> None:
        """Delete the queue that gets what the exchange gets."""
        await self.channel.queue_delete(self.queues[exchange])

    async def send(
        self, kind: str, body: dict[str, Any] | bytes, message_id: str | None = "", **about: Any
    ) -> str:
        """Publish an event; return its message id ("" makes one, None sends none)."""
        identity = str(uuid4()) if message_id == "" else message_id
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        about.setdefault("content_type", "application/json")
        message = aio_pika.Message(raw, message_id=identity, delivery_mode=2, **about)
        exchange = await self.channel.get_exchange("ccf.events", ensure=False)
        await exchange.publish(message, kind)
        return identity or ""

    async def send_raw(
        self,
        kind: str,
        body: bytes,
        message_id: str | None = None,
        *,
        replaced: tuple[bytes, bytes] = (b"", b""),
        **about: Any,
    ) -> None:
        """Publish what no library would: no id at all, or bytes *replaced* in the frames."""
        properties = {"content_type": "application/json", **about, "message_id": message_id}
        frames: list[Frame | ContentHeader | ContentBody] = [
            spec.Basic.Publish(exchange="ccf.events", routing_key=kind),
            ContentHeader(
                properties=spec.Basic.Properties(
                    **{key: value for key, value in properties.items() if value is not None}
                ),
                body_size=len(body),
            ),
            ContentBody(body),
        ]
        channel = await self.channel.get_underlay_channel()
        # A channel of its own: the library does not count what it has not sent.
        bare = await channel.connection.channel(publisher_confirms=False)
        payload = b"".join(marshal(frame, bare.number) for frame in frames)
        assert replaced[0] in payload
        payload = payload.replace(*replaced) if replaced[0] else payload
        await channel.connection.write_queue.put(ChannelFrame(payload, should_close=False))
        await bare.flow(active=True)

    async def until(self, ready: Callable[[], bool], within: float = WITHIN) -> None:
        """Wait until what has come satisfies *ready*."""
        async with asyncio.timeout(within):
            while not ready():
                await self._came.wait()
                self._came.clear()

    def about(self, request_id: str) -> list[AbstractIncomingMessage]:
        """Return the results of a request so far."""
        return [m for m in self.results if json.loads(m.body).get("request_id") == request_id]

    async def terminal(self, request_id: str, count: int = 1) -> AbstractIncomingMessage:
        """Wait for a request's terminal result to come *count* times; return the last."""

        def found() -> list[AbstractIncomingMessage]:
            ended = ("succeeded", "failed")
            return [m for m in self.about(request_id) if (m.type or "").endswith(ended)]

        await self.until(lambda: len(found()) >= count)
        return found()[-1]

    async def ask(self, kind: str, body: dict[str, Any] | bytes, **about: Any) -> dict[str, Any]:
        """Send an event and wait for the body of its terminal result."""
        message = await self.terminal(await self.send(kind, body, **about))
        found: dict[str, Any] = json.loads(message.body)
        return found

    async def letter(self, count: int = 1) -> AbstractIncomingMessage:
        """Wait for so many dead letters; return the last."""
        await self.until(lambda: len(self.letters) >= count)
        return self.letters[-1]
