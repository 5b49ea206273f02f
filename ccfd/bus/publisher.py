"""How does what ccfd has to say get out: stored results in order, progress among them?

A row is published until the broker has confirmed it and that is recorded: at least once, with
the same `message_id` each time. Rows of one request go out in the order of their ids.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel
from sqlalchemy import or_, select, update
from sqlalchemy.engine import Row

from ccfd.bus.deliveries import short
from ccfd.bus.lanes import LANES, Lanes
from ccfd.bus.progress import Ended, Progress, arrange
from ccfd.bus.sender import Outgoing, Sender, Sends, TurnedDown
from ccfd.store.database import Database, DatabaseAway, Transaction, told_or_later
from ccfd.store.outbox import RESULTS, TOPIC, encode
from ccfd.store.rounds import rounds
from ccfd.store.tables import outbox

log = structlog.get_logger()

# So many messages are on their way to the broker at once.
BATCH = 100
POLL = 1.0
# Progress that waits for the broker; more is dropped.
QUEUE = 1000
FLUSH_WITHIN = 5.0
JSON_TYPE = "application/json"


class Publisher:
    """Publishes the outbox while it *leads* the daemons on the database, and its own progress."""

    def __init__(
        self,
        database: Database,
        leads: Callable[[], bool],
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._leads = leads
        self._turned = turned
        self._told: asyncio.Event | None = None
        self._progress: deque[Progress] = deque()
        self._ended = Ended()
        self._lanes = Lanes()
        self._confirmed: list[int] = []
        self._flushing: list[asyncio.Event] = []

    def progress(
        self, body: dict[str, Any], correlation_id: str | None, traceparent: str | None = None
    ) -> None:
        """Publish a progress message soon, or drop it; never wait."""
        if self._told is None or len(self._progress) >= QUEUE:
            return
        self._progress.append(Progress(body["request_id"], body, correlation_id, traceparent))
        self._told.set()

    async def flush(self, within: float = FLUSH_WITHIN) -> None:
        """Wait until everything stored so far is out, *within* seconds at most."""
        if self._told is None:
            return
        out = asyncio.Event()
        self._flushing.append(out)
        self._told.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await out.wait()

    async def run(self, channel: AbstractChannel) -> None:
        """Publish until cancelled. Raises what ends the channel."""
        await self.publish(Sender(channel))

    async def publish(self, sender: Sends) -> None:
        """Publish through *sender* until cancelled, or until it fails."""
        is_away = False
        try:
            async with self._database.signals.listen(TOPIC) as self._told:
                while True:
                    self._turned()
                    flushing, self._flushing = self._flushing, []
                    try:
                        while await self.round(sender):
                            pass
                        is_away = False
                    except DatabaseAway as exc:
                        if not is_away:
                            log.warning("publisher waits for the database", reason=exc.message)
                        is_away = True
                        self._flushing += flushing
                        await asyncio.sleep(POLL)
                    else:
                        for out in flushing:
                            out.set()
                    await told_or_later(self._told, POLL)
        finally:
            self._told = None
            self._progress.clear()

    async def round(self, sender: Sends) -> bool:
        """Publish the next messages; tell whether there are more."""
        await self._record()
        ripe = self._take_progress()
        rows = await self._unpublished() if self._leads() else []
        is_all = len(rows) < BATCH
        # While rows remain, a request's `accepted` may be among them.
        green = self._take_progress() if is_all else [*ripe, *self._take_progress()]
        arranged = arrange([(row, _ends(row)) for row in rows], ripe if is_all else (), green)
        self._progress.extendleft(reversed(arranged.later))
        try:
            await self._send_all(arranged.items, sender)
        finally:
            await self._record()
        return not is_all

    def _take_progress(self) -> list[Progress]:
        """Take the progress that waits, without what comes too late or is held up."""
        taken = [
            progress
            for progress in self._progress
            if progress.request_id not in self._ended
            and not self._lanes.is_held(_lane_of(progress.correlation_id, 0))
        ]
        self._progress.clear()
        return taken

    async def _unpublished(self) -> Sequence[Row[Any]]:
        """Return the first rows that are not out, without those of requests that are held up."""
        waiting = self._lanes.waiting(asyncio.get_running_loop().time())
        if len(waiting) >= LANES:
            return []
        requests = [lane[1:] for lane in waiting if lane.startswith("=")]
        alone = [int(lane[1:]) for lane in waiting if lane.startswith("#")]
        column = outbox.c
        async with self._database.read() as transaction:
            return await transaction.all(
                select(outbox)
                .where(
                    column.published_at.is_(None),
                    or_(column.correlation_id.is_(None), column.correlation_id.not_in(requests)),
                    column.id.not_in(alone),
                )
                .order_by(column.id)
                .limit(BATCH)
            )

    async def _send_all(self, items: Sequence[Row[Any] | Progress], sender: Sends) -> None:
        """Publish *items* in order, all before the first is confirmed, and judge the outcome."""
        # Tasks start in the order of their making, and `send` waits for nothing before its turn
        # at the channel: so the order is kept.
        outcomes = await asyncio.gather(
            *(sender.send(_outgoing(item)) for item in items), return_exceptions=True
        )
        now = asyncio.get_running_loop().time()
        behind: set[str] = set()
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome is not None and not isinstance(outcome, TurnedDown):
                # The channel is lost. From here on all is published again.
                raise outcome
            if isinstance(item, Progress):
                continue
            lane = _lane_of(item.correlation_id, item.id)
            if lane in behind:
                continue
            if outcome is not None and self._lanes.turned_down(lane, item.id, now):
                log.warning(
                    "message turned down",
                    message_id=item.message_id,
                    type=item.type,
                    exchange=item.exchange,
                    reason=str(outcome),
                )
                behind.add(lane)
                continue
            if outcome is not None:
                log.error(
                    "message given up",
                    message_id=item.message_id,
                    type=item.type,
                    exchange=item.exchange,
                    reason=str(outcome),
                )
            self._lanes.passed(lane)
            self._confirmed.append(item.id)
            ended = _ends(item)
            if ended is not None:
                self._ended.add(ended)

    async def _record(self) -> None:
        """Record what the broker has confirmed. What cannot be recorded now is so next time."""
        if not self._confirmed:
            return
        done = list(self._confirmed)

        async def write(transaction: Transaction) -> None:
            await transaction.execute(
                update(outbox)
                .where(outbox.c.id.in_(done), outbox.c.published_at.is_(None))
                .values(published_at=transaction.now)
            )

        await self._database.run(write)
        del self._confirmed[: len(done)]


class NoBroker:
    """Takes the publisher's place where there is no broker: what is stored counts as said."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Mark every row as published, until cancelled."""
        await rounds(self._database, TOPIC, POLL, self._mark)

    async def _mark(self) -> None:
        await self._database.run(_mark_all)


async def _mark_all(transaction: Transaction) -> None:
    await transaction.execute(
        update(outbox).where(outbox.c.published_at.is_(None)).values(published_at=transaction.now)
    )


def _lane_of(correlation_id: str | None, row: int) -> str:
    """Name what keeps its order: a request's messages, which share their correlation id."""
    return f"#{row}" if correlation_id is None else f"={correlation_id}"


def _ends(row: Row[Any]) -> str | None:
    """Return the request that the row's message ends, if it ends one."""
    if row.exchange != RESULTS or not row.routing_key.endswith((".succeeded", ".failed")):
        return None
    request_id: str | None = json.loads(row.body).get("request_id")
    return request_id


def _outgoing(item: Row[Any] | Progress) -> Outgoing:
    """Make the message. An id from JSON may be longer than AMQP's short strings: it is cut."""
    if isinstance(item, Progress):
        kind = f"{item.body['type']}.{item.body['outcome']}"
        return Outgoing(
            RESULTS,
            kind,
            Message(
                encode(item.body),
                message_id=str(uuid4()),
                correlation_id=_short(item.correlation_id),
                type=kind,
                content_type=JSON_TYPE,
                headers={"traceparent": item.traceparent} if item.traceparent else {},
                delivery_mode=DeliveryMode.PERSISTENT,
            ),
        )
    return Outgoing(
        item.exchange,
        item.routing_key,
        Message(
            item.body,
            message_id=short(item.message_id),
            correlation_id=_short(item.correlation_id),
            type=short(item.type),
            content_type=item.content_type,
            headers=item.headers,
            delivery_mode=DeliveryMode.PERSISTENT,
            timestamp=item.created_at,
        ),
    )


def _short(text: str | None) -> str | None:
    return None if text is None else short(text)
