"""What is remembered, and for how long."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update

from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import VM
from tests.unit.workflow.test_interventions import stick

RETENTION = timedelta(days=30)  # of the harness's timers


async def age(harness: Harness, by: timedelta, *requests: str) -> None:
    """Let everything that was said, and the end of *requests*, be so long ago."""

    async def write(transaction: Transaction) -> None:
        then = transaction.now - by
        request, outbox = tables.request, tables.outbox
        ended = update(request).where(request.c.request_id.in_(requests))
        await transaction.execute(ended.values(ended_at=then))
        await transaction.execute(update(outbox).values(created_at=then))

    await harness.database.run(write)


async def publish(harness: Harness) -> None:
    """Count all that was said as said."""

    async def write(transaction: Transaction) -> None:
        out = tables.outbox
        await transaction.execute(update(out).values(published_at=transaction.now))

    await harness.database.run(write)


async def remembered(harness: Harness) -> dict[str, Any]:
    async with harness.database.read() as transaction:
        names = await transaction.all(select(tables.request.c.request_id))
        counts = {
            table.name: await transaction.scalar(select(func.count()).select_from(table))
            for table in (tables.workflow, tables.outbox)
        }
    return {"requests": {row.request_id for row in names}, **counts}


async def test_what_ended_is_remembered_for_the_retention_and_then_forgotten(
    harness: Harness,
) -> None:
    timers = harness.timers()
    async with harness.running():
        old = await harness.send("slice.create", slice="one", gateway=False, vms=[VM])
        await harness.terminal(old)
        new = await harness.send("subnet.create", owner="two")
        await harness.terminal(new)
        await age(harness, RETENTION - timedelta(minutes=1), old)
        await publish(harness)
        await harness.database.run(timers.prune)
        assert (await remembered(harness))["requests"] == {old, new}
        await age(harness, RETENTION + timedelta(minutes=1), old)
        await harness.database.run(timers.prune)
    assert await remembered(harness) == {"requests": {new}, "workflow": 0, "outbox": 0}
    assert (await harness.claims())["slices"] == 1, "what it has made stays"


async def test_what_is_unsaid_or_unfinished_is_never_forgotten(harness: Harness) -> None:
    async with harness.running():
        stuck = await stick(harness)
    waits = await harness.send("subnet.create", owner="other")
    before = await remembered(harness)
    await age(harness, 2 * RETENTION, stuck)
    await harness.database.run(harness.timers().prune)
    assert await remembered(harness) == before
    assert before["requests"] == {stuck, waits}
