"""A portal that outlives its broker: what it has to say waits, and what it hears is kept for it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from ccfd.bus.connection import EXPECTED, BrokerConnection
from ccfd.bus.sender import Outgoing, Sender
from ccfd.bus.topology import EVENTS
from tests.portal import TERMINAL, Body

QUEUE = "portal"


class Portal:
    """Publishes events until the broker has confirmed them, and collects results.

    Its queue is durable, and an event that is published again has the id that it had.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Outgoing] = {}
        self._told = asyncio.Event()
        self._connected = asyncio.Event()
        self._news = asyncio.Condition()
        self._ends: dict[str, dict[str, Body]] = {}
        """Every terminal result of each request, by its text: a copy is no second end."""
        self._done: defaultdict[str, set[str]] = defaultdict(set)
        """By the name of a step: the requests that have told of it."""
        self.ended_at: dict[str, float] = {}

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Portal]:
        """Be connected, again and again."""
        portal = cls()
        async with asyncio.TaskGroup() as group:
            connection = BrokerConnection(url, [portal], random=Random(1))
            task = group.create_task(connection.run())
            try:
                async with asyncio.timeout(30):
                    await portal._connected.wait()
                yield portal
            finally:
                task.cancel()

    async def run(self, channel: AbstractChannel) -> None:
        """Talk on *channel* for as long as it lasts."""
        queue = await channel.declare_queue(
            QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind("ccf.results", "#")
        await queue.consume(self._hear)
        self._connected.set()
        sender = Sender(channel)
        while True:
            waiting = dict(self._waiting)
            async with asyncio.TaskGroup() as group:
                for request, outgoing in waiting.items():
                    group.create_task(self._send(sender, request, outgoing))
            if not self._waiting:
                await self._told.wait()
                self._told.clear()

    async def _send(self, sender: Sender, request: str, outgoing: Outgoing) -> None:
        await sender.send(outgoing)
        del self._waiting[request]

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        body = json.loads(message.body)
        request = body.get("request_id")
        async with self._news:
            if body.get("outcome") in TERMINAL:
                text = json.dumps([message.message_id, body], sort_keys=True)
                self._ends.setdefault(request, {})[text] = body
                self.ended_at.setdefault(request, asyncio.get_running_loop().time())
            elif body.get("outcome") == "progress" and body["progress"]["status"] == "done":
                self._done[body["progress"]["step"]].add(request)
            self._news.notify_all()
        with suppress(*EXPECTED):  # then it comes again
            await message.ack()

    def ends(self, request: str) -> list[Body]:
        """Return the terminal results of *request* that differ."""
        return list(self._ends.get(request, {}).values())

    def publish(self, events: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        """Publish events (type, id, body), all at once, as soon as there is a broker."""
        for kind, request, body in events:
            message = aio_pika.Message(
                json.dumps(body).encode(),
                message_id=request,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            self._waiting[request] = Outgoing(EVENTS, kind, message)
        self._told.set()

    async def until_done(self, step: str, requests: set[str], count: int, within: float) -> None:
        """Wait until *count* of *requests* have done *step*, or ended."""
        async with asyncio.timeout(within), self._news:
            while len((self._done[step] | self._ends.keys()) & requests) < count:
                await self._news.wait()

    async def until_ended(self, requests: set[str], within: float) -> bool:
        """Wait until all have ended; tell whether they have."""
        try:
            async with asyncio.timeout(within), self._news:
                while not requests <= self._ends.keys():
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
