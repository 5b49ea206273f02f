"""Many requests for room at once, on a server: no host is overfilled, and no room is left over."""

import asyncio
from collections import Counter
from functools import partial

from sqlalchemy import insert, select

from ccfd import settings
from ccfd.errors import Refused
from ccfd.sched import claims
from ccfd.sched.hosts import Want
from ccfd.store import tables
from ccfd.store.database import Database
from tests.harness import Harness, lab_settings
from tests.twins import World
from tests.unit.handlers.test_slice_story import VM

AT_ONCE = 100


async def test_a_hundred_slices_at_once_fill_the_hosts_and_no_more(database_url: str) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    # Two hosts with room for 32 each, by their RAM.
    async with harness.running():
        asked = [
            await harness.send(
                "slice.create", slice=f"s{number}", gateway=False, vms=[{"name": "a", **VM}]
            )
            for number in range(AT_ONCE)
        ]
        ended = [await harness.terminal(one, 60) for one in asked]
    got = Counter(one["error"]["code"] if "error" in one else "" for one in ended)
    assert got == {"": 64, "no_valid_host": AT_ONCE - 64}
    rows = await harness.database.run(lambda tx: tx.all(select(tables.host)))
    assert {(row.cpu_used, row.ram_used, row.ram_limit) for row in rows} == {(32, 4096, 4096)}
    await harness.database.close()


async def test_pairs_that_must_be_apart_find_the_last_room(database_url: str) -> None:
    database = Database(settings.Database(url=database_url, pool=16))
    size = {"cpu": 20, "ram": 20, "disk": 20}
    row = {
        "island": "default",
        "configured": True,
        "up": True,
        "draining": False,
        **{f"{name}_total": amount for name, amount in size.items()},
        **{f"{name}_limit": amount for name, amount in size.items()},
        **{f"{name}_used": 0 for name in size},
    }
    rows = [{"name": f"h{number}", **row} for number in range(4)]
    await database.run(lambda tx: tx.execute(insert(tables.host), rows))

    async def pair(number: int) -> str:
        one = Want(name="a", cpu=1, ram=1, disk=1, island="default")
        other = Want(
            name="b", cpu=1, ram=1, disk=1, island="default", different_host=("a",), image="sum"
        )
        place = partial(claims.place, f"s{number}", [one, other], "spread")
        try:
            hosts = await database.run(place)
        except Refused as refused:
            return refused.code
        return "apart" if len(set(hosts)) == 2 else "together"

    got = Counter(await asyncio.gather(*(pair(number) for number in range(AT_ONCE))))
    # Room for 80 VMs: at the very end the last room may be on one host.
    assert got.keys() == {"apart", "no_valid_host"}
    used = await database.run(lambda tx: tx.all(select(tables.host.c.cpu_used)))
    assert sum(one.cpu_used for one in used) == 2 * got["apart"] >= 76
    assert max(one.cpu_used for one in used) <= 20
    await database.close()
