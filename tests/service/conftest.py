"""The fixtures of the service tier: a private RabbitMQ and PostgreSQL, a database a test."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import aio_pika
import pytest

from ccfd import settings
from ccfd.store import database, migrate
from ccfd.store.database import Database
from tests.harness import AMPLE, Harness, lab_settings
from tests.service.portal import Portal
from tests.service.servers import RABBIT, Postgres, Rabbit, SmallDisk, need
from tests.service.site import Site
from tests.twins import World

TEMPLATE = "template_ccfd"


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody give up on a database that is only slow, as on a busy machine, or shared by many.

    The product gives up soon, and tries again; what a test asks of the database itself is not.
    """
    monkeypatch.setattr(database, "CONNECT_TIMEOUT", AMPLE)


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """A broker."""
    need(RABBIT / "rabbitmq-server", "rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="ccfd-rabbit-") as folder:
        broker = Rabbit(Path(folder))
        try:
            broker.start()
            broker.wait()
            yield broker
        finally:
            broker.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A database server with a migrated, empty database to copy."""
    # Not pytest's own folder: the user postgres may not enter it.
    with tempfile.TemporaryDirectory(prefix="ccfd-postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            server.start()
            server.wait()
            asyncio.run(_make_template(server))
            yield server
        finally:
            server.kill()


async def _make_template(server: Postgres) -> None:
    await server.execute(f"CREATE DATABASE {TEMPLATE}")
    template = Database(settings.Database(url=server.url(TEMPLATE)))
    await migrate.upgrade(template)
    await template.close()


@pytest.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """A fresh database."""
    name = f"test_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url(name)
    await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[Harness, Harness]]:
    """Two daemons over the same hosts; nothing runs yet."""
    world = World()
    one, other = (Harness(lab_settings(database_url), world) for _ in range(2))
    await one.prepare()
    yield one, other
    await one.database.close()
    await other.database.close()


@pytest.fixture
async def small_disk(postgres: Postgres) -> AsyncIterator[SmallDisk]:
    """A fresh database on a disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    name = f"small_{uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="ccfd-small-") as folder:
        # The user postgres must get there.
        Path(folder).chmod(0o755)
        disk = SmallDisk(Path(folder) / "disk", postgres.url(name))
        disk.folder.mkdir()
        disk.mount()
        try:
            await postgres.execute(f"CREATE TABLESPACE {name} LOCATION '{disk.folder}'")
            await postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} TABLESPACE {name}")
            yield disk
            await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await postgres.execute(f"DROP TABLESPACE {name}")
        finally:
            disk.unmount()


@pytest.fixture
async def broker(rabbit: Rabbit) -> Rabbit:
    """The broker, without anything of ccfd's."""
    connection = await aio_pika.connect(rabbit.url)
    async with connection, connection.channel() as channel:
        for queue in ("ccfd.events", "ccfd.dead"):
            await channel.queue_delete(queue)
        for exchange in ("ccf.events", "ccf.results", "ccf.dead"):
            await channel.exchange_delete(exchange)
    return rabbit


@pytest.fixture
async def site(broker: Rabbit, database_url: str) -> AsyncIterator[Site]:
    """A ccfd over twins of the drivers, with a real database and broker; it is running."""
    async with Site.at(broker.url, database_url) as opened, opened.running():
        await opened.until_consuming()
        yield opened


@pytest.fixture
async def portal(site: Site, broker: Rabbit) -> AsyncIterator[Portal]:
    """A portal, connected once ccfd has declared what it needs."""
    async with Portal.opened(broker.url) as opened:
        yield opened
