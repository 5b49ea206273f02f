"""The engine on a server: with the least that the settings allow, and beside what is broken."""

import asyncio
from typing import Any

from sqlalchemy import insert

from ccfd.settings import Database
from ccfd.store import tables
from tests.harness import Harness, lab_settings
from tests.twins import World
from tests.unit.handlers.test_slice_story import NOTHING, VM


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
            ended = await asyncio.gather(*(harness.terminal(one, 30) for one in asked))
            assert {one["outcome"] for one in ended} == {"succeeded"}
    assert await harness.claims() == NOTHING
    await harness.database.close()


async def test_a_row_that_nobody_can_read_holds_up_no_other(database_url: str) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    rows = [
        {
            "request_id": name,
            "type": kind,
            "key": f"slice:{name}",
            "state": "running",
            "owner": "dead",
            "body": {},
            "correlation_id": name,
            "workflow_id": name,
            "terminal_message_id": name,
            "received_at": harness.database.clock(),
            "plan": {"owner": name},
            "steps": {"stages": [], "pivot": 0},
            "journal": {"records": [], "stage": 0, "backward": True, "error": None, "stuck": True},
        }
        for name, kind in (("unknown", "no.such"), ("known", "slice.create"))
    ]
    await harness.database.run(lambda tx: tx.execute(insert(tables.request), rows))
    async with harness.running():
        for name in ("unknown", "known"):
            assert (await harness.terminal(name))["outcome"] == "failed"
    await harness.database.close()
