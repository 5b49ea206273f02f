"""What a server's database needs more than the embedded one to be made again."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.lost import NOTHING_DIFFERS, Lost, two
from tests.service.conftest import TEMPLATE
from tests.service.servers import Postgres
from tests.unit.handlers.test_slice_story import VM


@pytest.fixture
async def lost(postgres: Postgres) -> AsyncIterator[Lost]:
    made: list[str] = []

    async def empty() -> str:
        made.append(f"lost_{uuid4().hex}")
        await postgres.execute(f"CREATE DATABASE {made[-1]} TEMPLATE {TEMPLATE}")
        return postgres.url(made[-1])

    lost = Lost(empty)
    await lost.fresh()
    yield lost
    await lost.close()
    for name in made:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_lost_database_is_made_again_while_others_take_from_its_pools(lost: Lost) -> None:
    told = {"description": "<é>\n", "ssh_keys": ["ssh-ed25519 AAAA one"]}
    await lost.make(*(two(f"s{n}", ipcount=(8, 16)[n % 2], **told) for n in range(6)))
    before = await lost.held()
    await lost.fresh()
    planned = await lost.recovery().plan()
    assert await lost.apply() == planned
    assert planned["left_out"] == []
    assert await lost.held() == before
    assert await lost.differences() == NOTHING_DIFFERS

    # Whoever is faster has it; the other is left out, or takes something else.
    await lost.fresh()
    async with lost.running():
        done, *ended = await asyncio.gather(
            lost.apply(),
            *(
                lost.harness.ask("subnet.create", owner=f"new{n}", ipcount=8 << n % 2)
                for n in range(12)
            ),
        )
    assert {one["outcome"] for one in ended} == {"succeeded"}
    rows, _ = await lost.held()
    held = [row["first"] + offset for row in rows["subnets"] for offset in range(row["size"])]
    assert len(held) == len(set(held))
    assert len(rows["slices"]) + len(done["left_out"]) == 6
    async with lost.running():
        for row in rows["slices"]:
            more = await lost.harness.ask("vm.create", slice=row["name"], name="c", **VM)
            assert more["outcome"] == "succeeded", more
