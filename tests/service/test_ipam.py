"""IPAM on a server, with many clients at once: nothing overlaps, nothing leaks, all is found."""

import asyncio
import ipaddress
from functools import partial
from itertools import pairwise
from random import Random

import pytest
from sqlalchemy import func, select, update

from ccfd import settings
from ccfd.errors import Refused
from ccfd.ipam import Ipam, networks, places, subnets
from ccfd.settings import Network
from ccfd.store import migrate, tables
from ccfd.store.database import Database, Transaction

CLIENTS = 64
STEPS = 12
OWNERS = [f"o{number}" for number in range(40)]


async def opened(url: str, cidr: str) -> Database:
    database = Database(settings.Database(url=url, pool=16))
    await migrate.upgrade(database)
    wanted = [Network(cidr=cidr, type=1), Network(cidr="172.16.0.1/27", type=0)]
    await database.run(lambda tx: networks.import_all(wanted, tx))
    return database


@pytest.mark.parametrize("size", places.SIZES)
async def test_clients_at_once_find_the_last_place(database_url: str, size: int) -> None:
    database = await opened(database_url, "10.0.0.0/23")
    ipam, other, room = Ipam(database), Ipam(database), 512 // size
    got = await asyncio.gather(
        *((other if n % 2 else ipam).create_subnet(f"o{n}", size) for n in range(room))
    )
    assert len({ipaddress.IPv4Interface(one).network for one in got}) == room
    with pytest.raises(Refused, match="room for"):
        await ipam.create_subnet("one-too-many", size)
    await asyncio.gather(*(ipam.delete_subnet(f"o{n}") for n in range(room)))
    again = await asyncio.gather(*(ipam.create_subnet(f"o{n}", size) for n in range(room)))
    assert sorted(again) == sorted(got)
    await database.close()


async def test_clients_at_once_find_the_last_address(database_url: str) -> None:
    database = await opened(database_url, "10.0.0.0/24")
    ipam, other = Ipam(database), Ipam(database)
    got = await asyncio.gather(*(ipam.allocate_ip_for_controller() for _ in range(30)))
    assert len(set(got)) == 30
    await ipam.create_subnet("demo")
    await ipam.subnet_create_success("demo")
    got = await asyncio.gather(*((other if n % 2 else ipam).allocate_ip("demo") for n in range(61)))
    assert len(set(got)) == 61
    for allocate in (ipam.allocate_ip_for_controller(), ipam.allocate_ip("demo")):
        with pytest.raises(Refused) as refused:
            await allocate
        assert refused.value.code == "address_exhausted"
    await database.close()


@pytest.mark.parametrize("seed", range(4))
async def test_no_history_overlaps_or_leaks(database_url: str, seed: int) -> None:
    database = await opened(database_url, "10.0.0.0/23")
    # Several: clients of one share their commits, and those of others are in their way.
    ipams = [Ipam(database) for _ in range(3)]
    await asyncio.gather(
        *(
            play(ipams[client % 3], database, Random(f"{seed}/{client}"))
            for client in range(CLIENTS)
        )
    )
    async with database.read() as transaction:
        await check_whole(transaction)
    for owner in OWNERS:
        await database.run(partial(subnets.release, owner))
    async with database.read() as transaction:
        assert await left(transaction) == {"subnet": 0, "block": 0, "address": 0, "taken": 0}
    await database.close()


async def play(ipam: Ipam, database: Database, random: Random) -> None:
    """Be one client: do something, and again."""
    for _ in range(STEPS):
        owner = random.choice(OWNERS)
        try:
            match random.choice(("reserve", "reserve", "confirm", "expire", "delete", "address")):
                case "reserve":
                    await ipam.create_subnet(owner, random.choice(places.SIZES))
                case "confirm":
                    await ipam.subnet_create_success(owner)
                case "expire":
                    await database.run(partial(let_expire, owner))
                case "delete":
                    await ipam.delete_subnet(owner)
                case _:
                    ip = await ipam.allocate_ip(owner)
                    await asyncio.sleep(random.random() * 0.01)
                    await ipam.release_ip(ip)
        except Refused:
            continue


async def let_expire(owner: str, transaction: Transaction) -> None:
    await transaction.execute(
        update(tables.subnet)
        .where(tables.subnet.c.owner == owner, tables.subnet.c.state == "reserved")
        .values(expires_at=transaction.now)
    )
    await subnets.expire(transaction)


async def check_whole(transaction: Transaction) -> None:
    """Check that blocks say what subnets hold, that no two overlap, and that free is free."""
    held = await transaction.all(select(tables.subnet).where(tables.subnet.c.state != "expired"))
    taken = sorted((row.first, row.first + row.size) for row in held)
    assert all(one[1] <= other[0] for one, other in pairwise(taken))
    used: dict[int, int] = {}
    for row in held:
        used[row.block] = used.get(row.block, 0) | 1 << row.place
    blocks = await transaction.all(select(tables.block))
    assert {row.number: row.used for row in blocks} == used
    assert {row.number: row.size for row in blocks} == {row.block: row.size for row in held}
    items = await transaction.all(
        select(tables.pool_item).where(tables.pool_item.c.owner.is_not(None))
    )
    assert {row.number for row in items} == set(used)


async def left(transaction: Transaction) -> dict[str, int]:
    counts = {
        table.name: await transaction.scalar(select(func.count()).select_from(table))
        for table in (tables.subnet, tables.block, tables.address)
    }
    taken = select(func.count()).where(tables.pool_item.c.owner.is_not(None))
    return counts | {"taken": await transaction.scalar(taken)}
