"""A ccfd on a real database and broker: all of it but the drivers and HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from sqlalchemy import func, select

from ccfd import settings
from ccfd.bus.bus import Bus
from ccfd.store import tables
from ccfd.workflow.records import Flow
from ccfd.workflow.runner import progress
from tests.harness import Harness, lab_settings
from tests.twins import World

WITHIN = 60.0


class Site(Harness):
    """One ccfd."""

    def __init__(self, broker_url: str, database_url: str) -> None:
        super().__init__(lab_settings(database_url), World())
        self.buried: list[str] = []
        self.bus = Bus(
            settings.Broker(url=broker_url),
            self.database,
            self.intake,
            self.buried.append,
            lambda: self.lease.leads,
        )
        # Whoever is told of steps tells the broker, as in the daemon.
        self.watched.step = self._tell  # type: ignore[method-assign]

    @classmethod
    @asynccontextmanager
    async def at(cls, broker_url: str, database_url: str) -> AsyncIterator[Self]:
        """Open one; nothing runs yet."""
        site = cls(broker_url, database_url)
        await site.prepare()
        try:
            yield site
        finally:
            await site.database.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run bus and engine meanwhile; stop as the daemon does."""
        async with self.alive(), asyncio.TaskGroup() as group:
            bus = group.create_task(self.bus.run())
            try:
                async with self.at_work():
                    try:
                        yield
                    finally:
                        self.bus.stop_consuming()
                await self.bus.flush()
            finally:
                bus.cancel()

    def _tell(self, flow: Flow, index: int, status: str) -> None:
        body = flow.asked.body(
            "progress", self.database.clock(), progress=progress(flow, index, status)
        )
        self.bus.progress(body, flow.asked.correlation_id, flow.asked.traceparent)

    async def until_consuming(self) -> None:
        """Wait until the broker knows of the consumer."""
        async with asyncio.timeout(WITHIN):
            while not self.bus.consuming:
                await asyncio.sleep(0.01)

    async def requests(self) -> int:
        """Count the stored requests."""
        async with self.database.read() as transaction:
            count: int = await transaction.scalar(select(func.count()).select_from(tables.request))
        return count

    async def unpublished(self) -> int:
        """Count what is not out yet."""
        query = select(func.count()).where(tables.outbox.c.published_at.is_(None))
        async with self.database.read() as transaction:
            count: int = await transaction.scalar(query.select_from(tables.outbox))
        return count
