"""How many messages a second become stored requests? `python -m tests.bench.inbox`.

The same messages in a quorum queue, prefetch 256, one PostgreSQL with fsync on:

- floor: a bare aio-pika consumer that inserts what has arrived in one statement, commits, and
  acknowledges;
- ccfd: its inbox, with strict decoding, validation against the schema, deduplication, the
  `accepted` result in the outbox, and acknowledgement after the commit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import structlog

from ccfd import settings
from ccfd.bus.inbox import Inbox
from ccfd.bus.topology import EVENTS, INBOX
from ccfd.handlers.registry import handlers
from ccfd.requests.decode import Event
from ccfd.store.database import Database, Transaction
from ccfd.workflow.intake import Intake, Stored
from tests.bench.servers import database, folder
from tests.harness import lab_settings
from tests.service.servers import Rabbit

MESSAGES = 16000
PREFETCH = 256
BATCH = 64


async def fill(channel: aio_pika.abc.AbstractChannel, name: str) -> aio_pika.abc.AbstractQueue:
    """Declare the quorum queue *name* anew, and publish the messages to it as a portal does."""
    await channel.queue_delete(name)
    queue = await channel.declare_queue(name, durable=True, arguments=dict(INBOX.arguments))
    exchange = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
    await queue.bind(exchange, "#")
    for first in range(0, MESSAGES, 500):
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(
                        body=_body(number),
                        message_id=str(uuid4()),
                        content_type="application/json",
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    routing_key="slice.create",
                )
                for number in range(first, first + 500)
            )
        )
    return queue


def _body(number: int) -> bytes:
    vms = [{"name": name, "flavor": "tiny", "image": "tiny"} for name in ("a", "b")]
    return json.dumps({"slice": f"slice-{number}", "gateway": False, "vms": vms}).encode()


async def floor(channel: aio_pika.abc.AbstractChannel, url: str) -> tuple[float, float]:
    """Return messages a second of the bare consumer, and its microseconds of CPU a message."""
    queue = await fill(channel, "bare")
    database = await asyncpg.connect(url.replace("+asyncpg", ""))
    await database.execute("DROP TABLE IF EXISTS bare")
    await database.execute("CREATE TABLE bare (id text PRIMARY KEY, type text, body json)")
    arrived: list[aio_pika.abc.AbstractIncomingMessage] = []
    told = asyncio.Event()

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        arrived.append(message)
        told.set()

    await channel.set_qos(prefetch_count=PREFETCH)
    began, cpu = time.perf_counter(), time.process_time()
    tag = await queue.consume(take)
    done = 0
    while done < MESSAGES:
        await told.wait()
        told.clear()
        while arrived:
            batch = arrived[:BATCH]
            del arrived[:BATCH]
            await database.execute(
                "INSERT INTO bare SELECT * FROM unnest($1::text[], $2::text[], $3::json[])",
                [message.message_id for message in batch],
                [message.routing_key for message in batch],
                [message.body.decode() for message in batch],
            )
            await batch[-1].ack(multiple=True)
            done += len(batch)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await queue.cancel(tag)
    await channel.queue_delete("bare")
    await database.close()
    return MESSAGES / seconds, cpu / MESSAGES * 1e6


class Counted(Intake):
    """An intake that tells when every message is stored."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.done = asyncio.Event()
        self._stored = 0

    async def store_all(
        self, events: Sequence[Event], transaction: Transaction, *, parent: str | None = None
    ) -> list[Stored]:
        """Store *events*, and count them once they are committed."""
        stored = await super().store_all(events, transaction, parent=parent)
        transaction.after(lambda: self._add(len(stored)))
        return stored

    def _add(self, stored: int) -> None:
        self._stored += stored
        if self._stored == MESSAGES:
            self.done.set()


async def ours(channel: aio_pika.abc.AbstractChannel, url: str) -> tuple[float, float]:
    """Return messages a second of ccfd's inbox, and its microseconds of CPU a message."""
    await fill(channel, INBOX.name)
    config = lab_settings(url)
    opened = Database(settings.Database(url=url))
    await _execute(url, "TRUNCATE request, workflow, outbox")
    counted = Counted(handlers(config), lambda *_: None)
    inbox = Inbox(opened, counted, prefetch=PREFETCH, dead_letter=lambda _: None)
    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        consuming = group.create_task(inbox.run(channel))
        await counted.done.wait()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        consuming.cancel()
    for table in ("request", "outbox"):
        assert await _execute(url, f"SELECT count(*) FROM {table}") == MESSAGES
    await opened.close()
    return MESSAGES / seconds, cpu / MESSAGES * 1e6


async def _execute(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def measure(rabbit: Rabbit, url: str, rounds: int) -> None:
    """Print both, round after round."""
    print(f"{MESSAGES} messages, quorum queue, prefetch {PREFETCH}, fsync on; messages/s")
    print("  floor    ccfd  x floor  CPU us: floor   ccfd")
    for _ in range(rounds):
        rates = []
        for consume in (floor, ours):
            connection = await aio_pika.connect(rabbit.url)
            async with connection:
                rates.append(await consume(await connection.channel(), url))
        (bare, bare_cpu), (mine, my_cpu) = rates
        print(f"{bare:7.0f} {mine:7.0f} {mine / bare:8.2f} {bare_cpu:11.0f} {my_cpu:7.0f}")


def main() -> None:
    """Measure, on servers of its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with folder("rabbit") as place, database() as url:
        rabbit = Rabbit(place / "rabbit")
        try:
            rabbit.start()
            rabbit.wait()
            asyncio.run(measure(rabbit, url, rounds))
        finally:
            rabbit.close()


if __name__ == "__main__":
    main()
