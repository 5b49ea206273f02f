"""The migrations make what the code expects, on an empty database and on one that is ready."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from ccfd import settings
from ccfd.errors import Refused
from ccfd.store import migrate, tables
from ccfd.store.database import Database


def database(path: Path) -> Database:
    return Database(settings.Database(url=f"sqlite+aiosqlite:///{path}"))


async def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    opened = database(tmp_path / "a.db")
    await migrate.upgrade(opened)
    await migrate.upgrade(opened)

    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), tables.metadata))

    async with opened.connection() as connection:
        assert await connection.run_sync(compare) == []
    await opened.close()


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    opened = database(tmp_path / "a.db")
    await migrate.upgrade(opened)
    async with opened.connection() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'f00d'"))
        await connection.commit()
    with pytest.raises(Refused, match="newer"):
        await migrate.upgrade(opened)
    await opened.close()


async def test_a_second_daemon_is_kept_from_the_same_file(tmp_path: Path) -> None:
    first, second = database(tmp_path / "a.db"), database(tmp_path / "a.db")
    first.take_hold()
    with pytest.raises(Refused, match="another ccfd"):
        second.take_hold()
    await first.close()
    second.take_hold()
    await second.close()
