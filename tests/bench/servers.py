"""Where do the measurements get a PostgreSQL whose commits reach the disk?"""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccfd import settings
from ccfd.store import migrate
from ccfd.store.database import Database
from tests.service.servers import Postgres


@contextmanager
def folder(*names: str) -> Iterator[Path]:
    """Give a folder with these folders in it, which servers of other users can enter."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        for one in names:
            (made / one).mkdir()
        yield made


@contextmanager
def database() -> Iterator[str]:
    """Give the URL of an empty database with ccfd's tables, on a server of its own."""
    with folder("postgres") as place:
        postgres = Postgres(place / "postgres", durable=True)
        postgres.start()
        try:
            postgres.wait()
            asyncio.run(postgres.execute("CREATE DATABASE bench"))
            url = postgres.url("bench")
            asyncio.run(_migrated(url))
            yield url
        finally:
            postgres.kill()


async def _migrated(url: str) -> None:
    opened = Database(settings.Database(url=url))
    await migrate.upgrade(opened)
    await opened.close()
