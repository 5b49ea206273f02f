"""The engine on a server: with the least that the settings allow, and beside what is broken."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert, select

from ccfd.settings import Database
from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.bench.engine import IN_STAGES, ours
from tests.harness import AMPLE, Harness, lab_settings
from tests.twins import World
from tests.unit.handlers.test_slice_story import NOTHING, VM
from tests.unit.handlers.test_timers import RETENTION, age, publish, remembered

STUCK = '{"stage":0,"backward":true,"stuck":true,"records":{}}\n'


async def test_many_slices_pass_through_a_small_pool(database_url: str) -> None:
    settings = lab_settings(database_url)
    small = Database(url=database_url, pool=2)
    harness = Harness(settings.model_copy(update={"database": small}), World())
    await harness.prepare()
    life: tuple[tuple[str, dict[str, Any]], ...] = (
        ("slice.create", {"gateway": False, "vms": [{"name": "a", **VM}]}),
        ("slice.delete", {}),
    )
    async with harness.running():
        for kind, body in life:
            asked = [await harness.send(kind, slice=f"s{number}", **body) for number in range(8)]
            ended = await asyncio.gather(*(harness.terminal(one) for one in asked))
            assert {one["outcome"] for one in ended} == {"succeeded"}
    assert await harness.claims() == NOTHING
    await harness.database.close()


async def test_what_is_forgotten_leaves_nothing_of_its_workflow(database_url: str) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    async with harness.running():
        old = await harness.send("slice.create", slice="one", gateway=False, vms=[VM])
        await harness.terminal(old)
        new = await harness.send("slice.create", slice="two", gateway=False, vms=[VM])
        await harness.terminal(new)
        await age(harness, RETENTION + timedelta(minutes=1), old)
        await publish(harness)
        await harness.database.run(harness.timers().prune)
        assert await remembered(harness) == {"requests": {new}, "workflow": 1, "outbox": 0}
    await harness.database.close()


async def test_a_row_that_nobody_can_read_holds_up_no_other(database_url: str) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    await put_under_way(harness, "defective", "slice.create", plan={"no": "plan"})
    await put_under_way(harness, "known", "slice.create", log=STUCK)
    async with harness.running():
        for name in ("defective", "known"):
            assert (await harness.terminal(name))["outcome"] == "failed"
    await harness.database.close()


@pytest.mark.parametrize(
    "newer", [{"kind": "slice.fly"}, {"kind": "slice.create", "step": "balloon"}]
)
async def test_what_a_newer_daemon_began_is_left_to_it(
    database_url: str, newer: dict[str, Any]
) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    await put_under_way(harness, "newer", **newer)
    async with harness.running():
        other = await harness.send("slice.create", slice="other", gateway=False)
        assert (await harness.terminal(other))["outcome"] == "succeeded"
        held = await harness.database.run(
            lambda tx: tx.scalar(
                select(tables.workflow.c.owner)
                .join(tables.request)
                .where(tables.request.c.request_id == "newer")
            )
        )
        assert held == "dead"
    await harness.database.close()


async def test_a_workflow_costs_the_same_however_many_wait(database_url: str) -> None:
    await ours(database_url, at_once=16, count=100, shape=IN_STAGES)
    # From now on PostgreSQL believes that hardly any request waits, as after a quiet hour.
    await ask(database_url, "ANALYZE")
    before = await entries_read(database_url)
    await ours(database_url, at_once=16, count=1000, shape=IN_STAGES)
    read = (await entries_read(database_url) - before) / 1000
    assert read < 20


async def entries_read(url: str) -> int:
    """Return how many entries have been read in the indexes of requests, their key's excepted."""
    # A session tells at its end at the latest what it has read.
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with asyncio.timeout(AMPLE):
        while await ask(url, f"{others} AND pid <> pg_backend_pid()"):
            await asyncio.sleep(0.05)
    read: int = await ask(
        url,
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes"
        " WHERE relname = 'request' AND indexrelname <> 'pk_request'",
    )
    return read


async def ask(url: str, statement: str) -> Any:
    """Execute *statement*; return its first value."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def put_under_way(
    harness: Harness,
    name: str,
    kind: str,
    *,
    step: str | None = None,
    plan: dict[str, Any] | None = None,
    log: str = "",
) -> None:
    """Store a request that a daemon which is dead now had begun."""
    stages = [[{"name": step, "args": {}}]] if step else []
    row = {
        "request_id": name,
        "type": kind,
        "key": f"slice:{name}",
        "state": "running",
        "unfinished": True,
        "body": {},
        "correlation_id": name,
        "workflow_id": name,
        "terminal_message_id": name,
        "received_at": harness.database.clock(),
        "plan": plan or {},
        "steps": {"stages": stages, "pivot": len(stages)},
    }

    async def write(tx: Transaction) -> None:
        seq = await tx.scalar(insert(tables.request).values(row).returning(tables.request.c.seq))
        under_way = {"seq": seq, "key": row["key"], "owner": "dead", "epoch": 1, "journal": log}
        await tx.execute(insert(tables.workflow).values(under_way))

    await harness.database.run(write)
