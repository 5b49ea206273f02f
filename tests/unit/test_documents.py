"""A page costs the same few questions, however long it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, select

from ccfd.console import ledger
from ccfd.documents import COLLECTIONS, history
from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import VM


@contextmanager
def asked(harness: Harness) -> Iterator[list[str]]:
    """Collect the statements that reach the database."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    engine = harness.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def look_at_all(harness: Harness) -> None:
    """Open a console of each VM."""
    async with harness.database.read() as transaction:
        vms = [row.id for row in await transaction.all(select(tables.vm.c.id))]
    for vm in vms:

        async def look(transaction: Transaction, vm: str = vm) -> None:
            issued = await ledger.issue(
                vm, "vnc", transaction, view_only=False, to="portal", lifetime=60
            )
            await ledger.open_with(issued.ticket, transaction, remote="192.0.2.9", most=9)

        await harness.database.run(look)


async def questions(harness: Harness) -> dict[str, int]:
    """Count the questions of each list, and of a history."""
    counts = {}
    async with harness.database.read() as transaction:
        for name, collection in COLLECTIONS.items():
            with asked(harness) as statements:
                page = await collection.page(1000, None, {}, transaction)
            assert page["items"], name
            counts[name] = len(statements)
        with asked(harness) as statements:
            await history("one", transaction)
        counts["history"] = len(statements)
    return counts


async def test_more_items_take_no_more_questions(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="one", gateway=False, vms=[VM])
    await look_at_all(harness)
    few = await questions(harness)
    harness.engine = harness.fresh_engine()
    async with harness.running():
        for name in ("two", "three"):
            await harness.ask("slice.create", slice=name, gateway=False, vms=[VM, VM])
        await harness.ask("vm.create", slice="one", **VM)
    await look_at_all(harness)
    assert await questions(harness) == few


async def test_items_of_a_page_are_not_mixed_up(harness: Harness) -> None:
    async with harness.running():
        for name in ("one", "two"):
            await harness.ask("slice.create", slice=name, gateway=False, vms=[{"name": name, **VM}])
        await harness.ask("subnet.create", owner="alone")
    async with harness.database.read() as transaction:
        for name, key in (("slices", "slice"), ("hosts", "host"), ("networks", "cidr")):
            page = await COLLECTIONS[name].page(1000, None, {}, transaction)
            for item in page["items"]:
                assert item == await COLLECTIONS[name].one(item[key], transaction)
        slices = await COLLECTIONS["slices"].page(1000, None, {}, transaction)
        workflows = await COLLECTIONS["workflows"].page(1000, None, {}, transaction)
    assert [[vm["name"] for vm in one["vms"]] for one in slices["items"]] == [["one"], ["two"]]
    assert [one["subnet"] for one in slices["items"]] == ["10.0.0.1/26", "10.0.0.65/26"]
    for one in workflows["items"]:
        assert {step["state"] for step in one["steps"]} == {"done"}
