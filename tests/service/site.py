"""A ccfd on a real database and broker: all of it but the drivers and HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Self

from sqlalchemy import func, select

from ccfd import settings
from ccfd.bus.bus import Bus
from ccfd.store import tables
from ccfd.workflow.engine import Engine
from ccfd.workflow.records import Flow
from ccfd.workflow.runner import Runner, progress
from ccfd.workflow.steps import Step
from tests.harness import Harness, lab_settings
from tests.twins import World

WITHIN = 20.0


class Site(Harness):
    """One ccfd."""

    def __init__(self, broker_url: str, database_url: str) -> None:
        super().__init__(lab_settings(database_url), World())
        self.buried: list[str] = []
        self.bus = Bus(
            settings.Broker(url=broker_url), self.database, self.intake, self.buried.append
        )
        runner = Runner(
            self.world.effects(),
            self.records,
            self,
            step_timeout=5.0,
            retries=0,
            clock=self.database.clock,
            random=Random(1),
        )
        self.engine = Engine(self.database, self.records, runner, concurrency=16)

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
        async with asyncio.TaskGroup() as group:
            bus = group.create_task(self.bus.run())
            engine = group.create_task(self.engine.run())
            try:
                yield
            finally:
                self.bus.stop_consuming()
                self.engine.stop()
                await engine
                await self.bus.flush()
                bus.cancel()

    def step(self, flow: Flow, index: int, status: str) -> None:
        """Publish progress as the daemon does."""
        body = flow.asked.body(
            "progress", self.database.clock(), progress=progress(flow, index, status)
        )
        self.bus.progress(body, flow.asked.correlation_id, flow.asked.traceparent)

    def attempt(self, step: Step, outcome: str, seconds: float) -> None:
        """Count nothing."""

    async def until_consuming(self) -> None:
        """Wait until the broker knows of the consumer."""
        async with asyncio.timeout(WITHIN):
            while not self.bus.consuming:
                await asyncio.sleep(0.01)

    async def requests(self) -> int:
        """Count the stored requests."""
        async with self.database.read() as transaction:
            count: int = await transaction.scalar(
                select(func.count()).select_from(tables.request)
            )
        return count

    async def unpublished(self) -> int:
        """Count what is not out yet."""
        query = select(func.count()).where(tables.outbox.c.published_at.is_(None))
        async with self.database.read() as transaction:
            count: int = await transaction.scalar(query.select_from(tables.outbox))
        return count
