"""How does a message become a stored request, and when is it acknowledged?

Whatever has arrived is stored in one transaction and acknowledged at once: a commit for each
message would halve the throughput.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from ccfd.bus import deliveries
from ccfd.bus.deliveries import Delivery
from ccfd.bus.letters import ERROR, letter
from ccfd.bus.sender import Sender, Sends
from ccfd.bus.topology import INBOX
from ccfd.errors import Refused
from ccfd.requests.decode import Event
from ccfd.store.database import Database, DatabaseAway, Transaction

log = structlog.get_logger()

BATCH = 64
# Reading JSON keeps the event loop: a batch ends with the message that reaches so many bytes.
BATCH_BYTES = 1 << 20
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

T = TypeVar("T")
Acknowledge = Callable[[int], Awaitable[None]]


class Stores(Protocol):
    """What stores requests: `ccfd.workflow.intake.Intake`."""

    async def store(self, event: Event, transaction: Transaction) -> Any:
        """Store *event*, recognise a copy, or store its refusal."""

    async def store_all(self, events: Sequence[Event], transaction: Transaction) -> Any:
        """Do so with each of *events*."""


class ConsumerCancelled(Exception):
    """The broker delivers no more: somebody deleted the queue, or its node is gone."""


class Inbox:
    """Consumes `ccfd.events`. *dead_letter* is told of each letter that the inbox itself sends."""

    def __init__(
        self,
        database: Database,
        intake: Stores,
        *,
        prefetch: int,
        dead_letter: Callable[[str], None],
    ) -> None:
        self.consuming = False
        self._database = database
        self._intake = intake
        self._prefetch = prefetch
        self._dead_letter = dead_letter
        self._stopping = False
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Take nothing more; what is being stored is stored and acknowledged."""
        self._stopping = True
        self._told.set()

    async def run(self, channel: AbstractChannel) -> None:
        """Consume until cancelled; after `stop`, only wait for that.

        Raises `ConsumerCancelled`, and what ends the channel.
        """
        # aiormq's deliveries, as they came: aio_pika makes two tasks of each, and raises at odd
        # properties where nobody sees it, so that the delivery would stay unacknowledged.
        bare = await channel.get_underlay_channel()
        arrived: deque[DeliveredMessage] = deque()
        cancelled = asyncio.Event()

        async def take(message: DeliveredMessage) -> None:
            arrived.append(message)
            self._told.set()

        def no_more(_frame: object) -> None:
            cancelled.set()
            self._told.set()

        if not self._stopping:
            bare.on_consumer_cancel_callbacks.add(no_more)
            await bare.basic_qos(prefetch_count=self._prefetch)
            tag = (await bare.basic_consume(INBOX.name, take)).consumer_tag
            assert tag is not None
            self.consuming = True
            try:
                acknowledge = partial(bare.basic_ack, multiple=True)
                await self._consume(arrived, Sender(channel), acknowledge, cancelled)
            finally:
                self.consuming = False
            await bare.basic_cancel(tag)
        await asyncio.Event().wait()

    async def _consume(
        self,
        arrived: deque[DeliveredMessage],
        sender: Sends,
        acknowledge: Acknowledge,
        cancelled: asyncio.Event,
    ) -> None:
        while not self._stopping:
            await self._told.wait()
            self._told.clear()
            while arrived and not self._stopping:
                await self.settle(next_batch(arrived), sender, acknowledge)
            if cancelled.is_set():
                raise ConsumerCancelled("the broker delivers no more events")

    async def settle(
        self, batch: Sequence[Delivery], sender: Sends, acknowledge: Acknowledge
    ) -> None:
        """Store every delivery, or send its letter; then acknowledge.

        *batch* is everything that was delivered after the last batch, so acknowledging its last
        delivery "and all before" acknowledges nothing that is not settled.
        """
        for delivery in batch:
            if not delivery.is_answerable:
                await sender.send(letter(delivery.event, self._database.clock()))
                self._dead_letter(ERROR)
                log.warning(
                    "message buried", reason="no message_id", routing_key=delivery.event.routing_key
                )
        events = [delivery.event for delivery in batch if delivery.is_answerable]
        if events and not await self._through_outages(lambda: self._store_together(events)):
            for delivery in batch:
                if delivery.is_answerable:
                    await self._through_outages(partial(self._store_alone, delivery.event))
                # At once: an outage in between must not bring the first ones here again.
                await acknowledge(delivery.tag)
            return
        await acknowledge(batch[-1].tag)

    async def _store_together(self, events: Sequence[Event]) -> bool:
        """Store them in one transaction; tell whether that went well."""
        try:
            await self._database.run(partial(self._intake.store_all, events))
        except DatabaseAway:
            raise
        except Exception:
            log.exception("batch not stored; its messages are stored one by one", size=len(events))
            return False
        return True

    async def _store_alone(self, event: Event) -> None:
        """Store one message that may be the one that breaks transactions.

        Such a message meets a defect of ccfd. Tried for ever it would hold up all others;
        rejected it would be lost. So it is stored as a request that failed (`internal`): its
        sender is answered, its letter can be requeued when the defect is mended. Both are tried
        in one transaction: that the refusal can be stored proves that the message is at fault
        and not the database (one that has become read-only, say, refuses everything). When even
        the refusal is refused, the message waits like in any other outage.
        """
        try:
            await self._database.run(partial(self._store_or_refuse, event))
        except DatabaseAway:
            raise
        except Exception as exc:
            log.exception("database stores no refusal", request=event.message_id)
            raise DatabaseAway(type(exc).__name__) from exc

    async def _store_or_refuse(self, event: Event, transaction: Transaction) -> None:
        try:
            async with transaction.savepoint():
                await self._intake.store(event, transaction)
        except Exception as exc:
            log.exception("message meets a defect", request=event.message_id)
            # Not the exception's text: it may hold what made the database refuse.
            error = Refused("internal", f"a defect of ccfd ({type(exc).__name__}): see its log")
            await self._intake.store(replace(event, data=None, error=error), transaction)

    async def _through_outages(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do *act*, again while the database is away: deliveries are held, never rejected."""
        pause, told = FIRST_PAUSE, False
        while True:
            try:
                done = await act()
            except DatabaseAway as exc:
                if not told:
                    log.warning("inbox waits for the database", reason=exc.message)
                    told = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if told:
                    log.info("inbox goes on")
                return done


def next_batch(arrived: deque[DeliveredMessage]) -> list[Delivery]:
    """Take what has arrived, in order, as much of it as one transaction should hold."""
    batch: list[Delivery] = []
    size = 0
    while arrived and len(batch) < BATCH and size < BATCH_BYTES:
        message = arrived.popleft()
        size += len(message.body)
        batch.append(deliveries.read(message))
    return batch
