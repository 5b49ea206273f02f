"""Transactions say what went wrong, and nothing else."""

from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ccfd.store.database import Transaction
from tests.harness import Harness


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
