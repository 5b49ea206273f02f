"""Transactions say what went wrong, and nothing else."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from ccfd import settings
from ccfd.store import database as module
from ccfd.store.database import Database, DatabaseAway, Transaction, is_away
from tests.harness import AMPLE, Harness
from tests.twins import no_trap
from tests.unit.handlers.test_slice_story import NOTHING, VM


async def test_a_savepoint_that_cannot_be_marked_hides_no_error(harness: Harness) -> None:
    async def write(transaction: Transaction) -> None:
        connection = await transaction.connection()
        async with transaction.savepoint():
            # As when the connection breaks just now.
            await connection.close()
            await transaction.execute(text("SELECT 1"))

    with pytest.raises(SQLAlchemyError, match="closed"):
        await harness.database.run(write)


async def test_what_a_savepoint_undoes_and_what_stays(harness: Harness) -> None:
    async def write(transaction: Transaction) -> None:
        await transaction.execute(text("CREATE TABLE seen (what TEXT)"))
        await transaction.execute(text("INSERT INTO seen VALUES ('before')"))
        with suppress(ValueError):
            async with transaction.savepoint():
                await transaction.execute(text("INSERT INTO seen VALUES ('within')"))
                raise ValueError("no")
        async with transaction.savepoint():
            pass
        await transaction.execute(text("INSERT INTO seen VALUES ('after')"))

    await harness.database.run(write)
    async with harness.database.read() as transaction:
        rows = await transaction.all(text("SELECT what FROM seen"))
    assert [row.what for row in rows] == ["before", "after"]


async def test_the_embedded_database_is_durable_and_takes_its_lock_first(tmp_path: Path) -> None:
    path = tmp_path / "ccfd.db"
    one = Database(settings.Database(url=f"sqlite+aiosqlite:///{path}"))
    locked = asyncio.Event()

    async def read_then_write(transaction: Transaction) -> str:
        said = [
            str(await transaction.scalar(text(f"PRAGMA {what}")))
            for what in ("journal_mode", "synchronous", "foreign_keys")
        ]
        locked.set()
        await asyncio.sleep(0.05)
        order.append("first")
        return " ".join(said)

    async def write(transaction: Transaction) -> None:
        # Who begins takes the lock for writing: nobody who has read finds it taken.
        await transaction.scalar(text("SELECT 1"))
        order.append("second")

    order: list[str] = []
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.run(read_then_write))
        await locked.wait()
        group.create_task(one.run(write))
    assert first.result() == "wal 2 1"  # 2: FULL
    assert order == ["first", "second"]
    await one.close()


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (asyncpg.exceptions.DiskFullError("no space left"), True),
        (asyncpg.exceptions.TooManyConnectionsError("sorry"), True),
        (asyncpg.exceptions.InternalServerError("could not write init file"), True),
        (asyncpg.exceptions.AdminShutdownError("bye"), True),
        (asyncpg.exceptions.CannotConnectNowError("starting up"), True),
        (asyncpg.exceptions.ReadOnlySQLTransactionError("a standby"), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.exceptions.UndefinedTableError("no such table"), False),
        (asyncpg.exceptions.SerializationError("again"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_means_that_the_database_is_away(error: Exception, *, away: bool) -> None:
    assert is_away(error) is away


class Disk:
    """How much room the embedded database has: as much as it likes, or no page more."""

    def __init__(self, harness: Harness) -> None:
        self.is_full = False
        event.listen(harness.database.engine.sync_engine, "checkout", self._limit)

    def _limit(self, connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        # A limit below what there is means what there is.
        cursor.execute(f"PRAGMA max_page_count = {1 if self.is_full else 1 << 20}")
        cursor.close()


async def test_a_full_disk_is_told_and_all_goes_on_when_there_is_room(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOUBT", 0.1)
    disk = Disk(harness)
    vms = [{"name": f"vm{number}", **VM} for number in range(40)]

    async def fill_on_the_way(call: str, _args: object) -> None:
        await asyncio.sleep(0)
        if call == "domains.boot:before":
            disk.is_full = True

    harness.world.trap = fill_on_the_way
    async with harness.running():
        request = await harness.send("slice.create", slice="demo", gateway=False, vms=vms)
        async with asyncio.timeout(AMPLE):
            while harness.database.is_up:
                await asyncio.sleep(0.005)
        assert "full" in harness.database.problem
        with pytest.raises(DatabaseAway):
            await harness.send("subnet.create", owner="b", description="x" * 9999)
        disk.is_full, harness.world.trap = False, no_trap
        assert (await harness.terminal(request))["outcome"] == "succeeded"
        gone = await harness.ask("slice.delete", slice="demo")
        assert gone["outcome"] == "succeeded"
    assert await harness.claims() == NOTHING
    assert harness.database.is_up
