"""`GET /v1/events`: every result and notice as server-sent events, from now or from an id on.

Results and notices are read back from the outbox, so that the events of every daemon on the
database are seen; progress comes straight from this one and is not replayed.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Row

from ccfd.store.database import Database
from ccfd.store.outbox import RESULTS, TOPIC, encode
from ccfd.store.rounds import rounds
from ccfd.store.tables import outbox

POLL = 1.0
QUEUE = 4096
PAGE = 200
# A row may be committed after one with a higher id: look back over so many.
LOOK_BACK = 256


@dataclass(frozen=True, slots=True)
class Sent:
    """One server-sent event; progress has no id."""

    id: int | None
    kind: str
    slice: str | None
    data: bytes

    def wire(self) -> bytes:
        """Format it (WHATWG HTML, "Server-sent events")."""
        head = f"id: {self.id}\n" if self.id is not None else ""
        return f"{head}event: {self.kind}\n".encode() + b"data: " + self.data + b"\n\n"


@dataclass(eq=False, slots=True)
class Reader:
    """Someone who listens; `lost` is set when it could not keep up."""

    slice: str | None
    queue: asyncio.Queue[Sent] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    lost: bool = False


class Stream:
    """Fans events out to readers; without any, it rests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._readers: set[Reader] = set()
        self._progress: deque[dict[str, Any]] = deque(maxlen=QUEUE)
        self._cursor = 0
        self._seen: set[int] = set()
        self._starting = asyncio.Lock()

    def progress(self, body: dict[str, Any]) -> None:
        """Send a progress message to whoever listens now."""
        if self._readers:
            self._progress.append(body)
            self._database.signals.wake(TOPIC)

    @asynccontextmanager
    async def subscribe(self, last_id: int | None, slice_name: str | None) -> AsyncIterator[Reader]:
        """Give a reader of all events from now, or after *last_id*, of one slice if named."""
        reader = Reader(slice_name)
        async with self._starting:
            if not self._readers:
                await self._start()
            self._readers.add(reader)
        try:
            if last_id is not None:
                await self._replay(reader, last_id)
            yield reader
        finally:
            self._readers.discard(reader)

    async def _start(self) -> None:
        """Begin at the end of what is there."""
        self._progress.clear()
        async with self._database.read() as transaction:
            rows = await transaction.all(
                select(outbox.c.id).order_by(outbox.c.id.desc()).limit(LOOK_BACK)
            )
        self._seen = {row.id for row in rows}
        self._cursor = max(self._seen, default=0)

    async def _replay(self, reader: Reader, last_id: int) -> None:
        while True:
            async with self._database.read() as transaction:
                rows = await transaction.all(
                    select(outbox)
                    .where(outbox.c.exchange == RESULTS, outbox.c.id > last_id)
                    .order_by(outbox.c.id)
                    .limit(PAGE)
                )
            for row in rows:
                self._give(reader, _sent(row))
                last_id = row.id
            if len(rows) < PAGE or reader.lost:
                return

    async def run(self) -> None:
        """Read what is new, for ever."""
        await rounds(self._database, TOPIC, POLL, self._round)

    async def _round(self) -> None:
        if not self._readers:
            return
        progress = [self._progress.popleft() for _ in range(len(self._progress))]
        oldest = self._cursor - LOOK_BACK
        async with self._database.read() as transaction:
            rows = await transaction.all(
                select(outbox)
                .where(
                    outbox.c.exchange == RESULTS,
                    outbox.c.id > oldest,
                    outbox.c.id.not_in(self._seen),
                )
                .order_by(outbox.c.id)
                .limit(PAGE)
            )
        self._seen = {seen for seen in self._seen if seen > oldest} | {row.id for row in rows}
        self._cursor = max([self._cursor, *(row.id for row in rows)])
        for sent in _merge(rows, progress):
            for reader in list(self._readers):
                self._give(reader, sent)
        if len(rows) == PAGE:
            self._database.signals.wake(TOPIC)

    def _give(self, reader: Reader, sent: Sent) -> None:
        if reader.slice is not None and sent.slice != reader.slice:
            return
        try:
            reader.queue.put_nowait(sent)
        except asyncio.QueueFull:
            # It comes back with Last-Event-ID and misses nothing but progress.
            reader.lost = True
            self._readers.discard(reader)


def _merge(rows: Sequence[Row[Any]], progress: Sequence[dict[str, Any]]) -> list[Sent]:
    """Put progress after its request's acceptance and before its terminal result."""
    merged: list[Sent] = []
    left = list(progress)
    for row in rows:
        if row.type.endswith((".succeeded", ".failed")):
            request = json.loads(row.body).get("request_id")
            merged += [_progress(body) for body in left if body["request_id"] == request]
            left = [body for body in left if body["request_id"] != request]
        merged.append(_sent(row))
    return merged + [_progress(body) for body in left]


def _sent(row: Row[Any]) -> Sent:
    return Sent(row.id, row.routing_key, row.slice, row.body)


def _progress(body: dict[str, Any]) -> Sent:
    return Sent(None, f"{body['type']}.progress", body.get("slice"), encode(body))
