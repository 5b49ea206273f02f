"""What falls due: reservations, and what is remembered for so long."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from ccfd.errors import Refused
from ccfd.handlers.timers import POLL
from ccfd.ipam import Ipam
from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import VM
from tests.unit.workflow.test_interventions import stick

RETENTION = timedelta(days=30)  # of the harness's timers


async def age(harness: Harness, by: timedelta, *requests: str) -> None:
    """Let everything that was said, and *requests*, be so long ago."""

    async def write(transaction: Transaction) -> None:
        then = transaction.now - by
        request, outbox = tables.request, tables.outbox
        ended = update(request).where(request.c.request_id.in_(requests))
        await transaction.execute(ended.values(received_at=then, ended_at=then))
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


async def test_a_reservation_expires_when_it_is_due_also_after_a_restart(
    harness: Harness,
) -> None:
    began = harness.database.clock()
    harness.database.clock = lambda: began
    assert await Ipam(harness.database).create_subnet("demo", timeout=120) == "10.0.0.1/26"
    due = began + timedelta(seconds=120)
    # Another life, long after the first: nothing but the database is left of that.
    again = Harness(harness.settings, harness.world)
    moment = due
    again.database.clock = lambda: moment
    for early, expired in ((timedelta(seconds=1), 0), (timedelta(), 1), (timedelta(), 1)):
        moment = due - early
        await again.timers().round()
        said = [body for kind, body in await again.said() if kind == "subnet.expired"]
        told = [(body["owner"], body["subnet"]) for body in said]
        assert told == [("demo", "10.0.0.1/26")] * expired
    assert await Ipam(again.database).create_subnet("next") == "10.0.0.1/26"
    with pytest.raises(Refused) as late:
        await Ipam(again.database).subnet_create_success("demo")
    assert late.value.code == "subnet_expired"
    await again.database.close()


def test_what_is_due_is_looked_for_twice_a_second() -> None:
    assert POLL <= 0.5
