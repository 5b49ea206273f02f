"""ccfd without its borders: database, handlers and engine over twins, for tests that drive it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from pydantic import SecretBytes
from sqlalchemy import event, func, select, update

from ccfd import settings
from ccfd.handlers.imports import import_images, import_settings
from ccfd.handlers.registry import handlers
from ccfd.handlers.timers import Timers
from ccfd.requests.decode import Event
from ccfd.settings import Settings
from ccfd.store import migrate, tables
from ccfd.store.database import Database, Transaction
from ccfd.workflow.backlog import Backlog
from ccfd.workflow.engine import Engine
from ccfd.workflow.handler import Handlers
from ccfd.workflow.intake import Intake
from ccfd.workflow.intervene import Interventions
from ccfd.workflow.lease import Lease
from ccfd.workflow.records import Flow, Records
from ccfd.workflow.runner import Runner
from ccfd.workflow.steps import Step
from tests.twins import TINY, World

AMPLE = 60.0
"""Seconds that nothing takes unless it is wrong: a busy machine may stand still for several."""

# Statements are compiled once for all of a run's harnesses, and not once for each.
COMPILED: dict[Any, Any] = {}


def template(directory: Path) -> Path:
    """Make a migrated database file."""
    path = directory / "empty.db"

    async def make() -> None:
        database = Database(settings.Database(url=f"sqlite+aiosqlite:///{path}"))
        await migrate.upgrade(database)
        await database.close()

    asyncio.run(make())
    return path


def lab_settings(database_url: str) -> Settings:
    """Make settings with two hosts and one of each kind of network."""
    return Settings(
        broker=settings.Broker(url=""),
        database=settings.Database(url=database_url),
        network=(
            settings.Network(cidr="10.0.0.0/8", type=1),
            settings.Network(cidr="172.16.0.101/16", type=0),
            settings.Network(cidr="198.51.100.10/24", type=2, gateway="198.51.100.1"),
        ),
        network_node=settings.NetworkNode(tunnel_ip="192.0.2.100"),
        host=tuple(
            settings.Host(name=name, tunnel_ip=f"192.0.2.{number}", cpu=8, ram=4096, disk=100)
            for number, name in enumerate(("h1", "h2"), start=1)
        ),
        flavor=(settings.Flavor(name="tiny", cpu=1, ram=128, disk=1),),
        slices=settings.Slices(ssh_key_secret=SecretBytes(b"nobody can guess this")),
    )


@dataclass
class Watched:
    """Remembers what the runner told."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def step(self, flow: Flow, index: int, status: str) -> None:
        """Remember."""
        self.steps.append((flow.steps.flat[index].name, status))

    def attempt(self, step: Step, outcome: str, seconds: float) -> None:
        """Forget."""


def _without_waiting_for_the_disk(connection: Any, _record: Any) -> None:
    """No test cuts the power: a killed process's writes are there all the same."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


class Harness:
    """One ccfd without borders."""

    def __init__(self, config: Settings, world: World, *, retries: int = 0) -> None:
        self.settings = config
        self.world = world
        self.database = Database(config.database)
        self.database.engine = self.database.engine.execution_options(compiled_cache=COMPILED)
        if self.database.is_sqlite:
            event.listen(self.database.engine.sync_engine, "connect", _without_waiting_for_the_disk)
        self.handlers: Handlers = handlers(config)
        self.ended: list[tuple[str, str]] = []
        self.dead: list[str] = []
        self.intake = Intake(self.handlers, lambda _kind, code: self.dead.append(code))
        self.records = Records(
            self.database,
            self.handlers,
            self.intake,
            lambda kind, outcome, _s: self.ended.append((kind, outcome)),
            concurrency=config.workflow.concurrency,
        )
        self.interventions = Interventions(self.database, self.handlers)
        self.watched = Watched()
        self.lease = Lease(self.database)
        self.runner = Runner(
            world.effects(),
            self.records,
            self.watched,
            held=lambda: self.lease.held,
            step_timeout=AMPLE,
            retries=retries,
            clock=lambda: self.database.clock().timestamp(),
            random=Random(1),
        )
        self.engine = self.fresh_engine()

    @classmethod
    @asynccontextmanager
    async def opened(cls, directory: Path, empty: Path) -> AsyncIterator["Harness"]:
        """Open one on a copy of the database *empty*, with two hosts up and the image `tiny`."""
        path = directory / "ccfd.db"
        shutil.copy(empty, path)
        harness = cls(lab_settings(f"sqlite+aiosqlite:///{path}"), World())
        await harness.prepare()
        try:
            yield harness
        finally:
            await harness.database.close()

    async def prepare(self) -> None:
        """Import the settings, take the hosts up."""

        async def write(transaction: Transaction) -> None:
            await import_settings(self.settings, transaction)
            await import_images([TINY], transaction)
            await transaction.execute(
                update(tables.host).values(
                    up=True,
                    cpu_total=8,
                    ram_total=4096,
                    disk_total=100,
                    cpu_limit=32,
                    ram_limit=4096,
                    disk_limit=100,
                )
            )

        await self.database.run(write)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the engine meanwhile."""
        async with self.alive(), self.at_work():
            yield

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Give signs of life meanwhile."""
        async with asyncio.TaskGroup() as group:
            lease = group.create_task(self.lease.run())
            try:
                yield
            finally:
                lease.cancel()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Carry out requests meanwhile; then let those under way reach their next record."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.engine.run())
            try:
                yield
            finally:
                self.engine.stop()
                await task

    async def run_to_death(self) -> None:
        """Run the engine until something that no handler sees ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.lease.run())
            await self.engine.run()

    def fresh_engine(self, concurrency: int = 16) -> Engine:
        """Make an engine, the first or one after another was stopped."""
        self.runner.stopping.clear()
        backlog = Backlog(self.database, self.handlers, self.world.effects())
        return Engine(
            self.database,
            backlog,
            self.records,
            self.runner,
            self.lease,
            concurrency=concurrency,
        )

    async def send(self, kind: str, message_id: str | None = None, **data: Any) -> str:
        """Store an event; return its request's id."""
        identity = message_id or str(uuid4())
        event = Event(
            message_id=identity,
            type=kind,
            data=data,
            correlation_id=identity,
            raw=json.dumps(data).encode(),
        )
        await self.database.run(lambda transaction: self.intake.store(event, transaction))
        return identity

    async def terminal(self, request_id: str, within: float = AMPLE) -> dict[str, Any]:
        """Wait for a request's terminal result."""
        async with asyncio.timeout(within):
            while True:
                async with self.database.read() as transaction:
                    found: dict[str, Any] | None = await transaction.scalar(
                        select(tables.request.c.terminal).where(
                            tables.request.c.request_id == request_id
                        )
                    )
                if found is not None:
                    return found
                await asyncio.sleep(0.002)

    async def ask(self, kind: str, **data: Any) -> dict[str, Any]:
        """Send an event and wait for its terminal result."""
        return await self.terminal(await self.send(kind, **data))

    async def said(self) -> list[tuple[str, dict[str, Any]]]:
        """Return every result and notice so far: routing key and body."""
        async with self.database.read() as transaction:
            rows = await transaction.all(
                select(tables.outbox)
                .where(tables.outbox.c.exchange == "ccf.results")
                .order_by(tables.outbox.c.id)
            )
        return [(row.routing_key, json.loads(row.body)) for row in rows]

    async def claims(self) -> dict[str, int]:
        """Count what is held in the database: all of it 0 when nothing is."""
        counts = {
            "slices": select(func.count()).select_from(tables.slices),
            "vms": select(func.count()).select_from(tables.vm),
            "subnets": select(func.count()).select_from(tables.subnet),
            "blocks": select(func.count()).select_from(tables.block),
            "addresses": select(func.count()).select_from(tables.address),
            "pooled": select(func.count())
            .select_from(tables.pool_item)
            .where(tables.pool_item.c.owner.is_not(None)),
            "cpu": select(func.sum(tables.host.c.cpu_used)),
            "ram": select(func.sum(tables.host.c.ram_used)),
            "disk": select(func.sum(tables.host.c.disk_used)),
        }
        async with self.database.read() as transaction:
            return {name: await transaction.scalar(query) for name, query in counts.items()}

    def timers(self, turned: Callable[[], None] = lambda: None) -> Timers:
        """Make the timers of this ccfd."""
        from datetime import timedelta

        return Timers(
            self.database,
            self.intake,
            retention=timedelta(days=30),
            expired=lambda _n: None,
            turned=turned,
        )
