"""How many subnets and addresses a second? `python -m tests.bench.ipam`.

One PostgreSQL with fsync on, 1 and 16 clients, 0, 1,000, 4,000 and 16,000 subnets taken before:

- floor: the least that keeps two from taking the same, by bare asyncpg: `SELECT ... FOR UPDATE SKIP
  LOCKED` of the lowest free of rows that were inserted before, `UPDATE`, commit;
- ccfd: a subnet reserved (of 64 addresses and of 8), an address taken, by `ccfd.ipam.Ipam`.

The levels take turns, round after round; printed is the median of the rounds. Wanted at 16 clients:
0.3 times the floor, and with 16,000 taken 0.8 times what it is with none. Beside it, once a round:
subnets a second by way of the broker, from `subnet.create` published to `succeeded` received.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import asyncpg
import structlog
from sqlalchemy import text

from ccfd import settings
from ccfd.daemon import spare_the_collector
from ccfd.ipam import Ipam, networks
from ccfd.settings import Network
from ccfd.store.database import Database, Transaction
from tests.bench.servers import database, folder
from tests.service.portal import Portal
from tests.service.servers import Rabbit
from tests.service.site import Site

LEVELS = (0, 1_000, 4_000, 16_000)
CLIENTS = (1, 16)
SECONDS = 0.6
"""How long one measurement takes."""

OWNERS = 200
"""Subnets that addresses are taken from, in turn."""

MESSAGES = 400
"""Subnets asked for by way of the broker."""

Take = Callable[[int], Awaitable[Any]]


async def rate(take: Take, clients: int) -> float:
    """Return how often a second *clients* can *take*, each time with another number."""
    numbers = count()
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        while time.perf_counter() < end:
            await take(next(numbers))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return next(numbers) / (time.perf_counter() - began)


class Floor:
    """Rows that were inserted before, the lowest free one taken first."""

    def __init__(self, connections: list[Any]) -> None:
        self._free = connections

    @classmethod
    async def over(cls, url: str, level: int) -> Floor:
        """Make a table with *level* rows taken, and enough that are free."""
        dsn = url.replace("+asyncpg", "")
        connections = [await asyncpg.connect(dsn) for _ in range(max(CLIENTS))]
        first = connections[0]
        await first.execute("DROP TABLE IF EXISTS place")
        await first.execute("CREATE TABLE place (id int PRIMARY KEY, owner text)")
        await first.execute("CREATE INDEX ON place (id) WHERE owner IS NULL")
        await first.execute(
            "INSERT INTO place SELECT n, CASE WHEN n < $1 THEN 'taken' END"
            " FROM generate_series(0, $1 + 20000) n",
            level,
        )
        await first.execute("VACUUM ANALYZE place")
        return cls(connections)

    async def take(self, number: int) -> None:
        """Take the lowest free row."""
        connection = self._free.pop()
        async with connection.transaction():
            found = await connection.fetchval(
                "SELECT id FROM place WHERE owner IS NULL ORDER BY id LIMIT 1"
                " FOR UPDATE SKIP LOCKED"
            )
            await connection.execute(
                "UPDATE place SET owner = $1 WHERE id = $2", f"o{number}", found
            )
        self._free.append(connection)

    async def close(self) -> None:
        """Hang up."""
        for connection in self._free:
            await connection.close()


async def taken(opened: Database, level: int) -> None:
    """Empty IPAM, then have *level* subnets of 64 addresses taken."""
    tables = "address, subnet, block, pool_item, pool, network"
    await opened.run(lambda tx: tx.execute(text(f"TRUNCATE {tables}")))
    wanted = [Network(cidr="10.0.0.0/8", type=1)]
    await opened.run(lambda tx: networks.import_all(wanted, tx))
    await opened.run(partial(_insert, level))


async def _insert(level: int, transaction: Transaction) -> None:
    for statement in (
        f"INSERT INTO pool_item SELECT name, first + n, 'size:64'"
        f" FROM pool, generate_series(0, {level - 1}) n",
        f"UPDATE pool SET next = first + {level}",
        "INSERT INTO block SELECT '10.0.0.0/8', number, 64, 1, true FROM pool_item",
        "INSERT INTO subnet (owner, network, block, place, size, first, state, timeout)"
        " SELECT 'before' || number, network, number, 0, 64, number * 64, 'confirmed', 120"
        " FROM block",
    ):
        await transaction.execute(text(statement))


async def measure(url: str, level: int, clients: int, rates: dict[Any, list[float]]) -> None:
    """Measure all at one level."""
    floor = await Floor.over(url, level)
    rates["floor", level, clients].append(await rate(floor.take, clients))
    await floor.close()
    opened = Database(settings.Database(url=url, pool=max(CLIENTS)))

    ipam = Ipam(opened)

    async def reserve(size: int, number: int) -> None:
        await ipam.create_subnet(f"o{size}-{number}", size)

    async def allocate(number: int) -> None:
        await ipam.allocate_ip(f"a{number % OWNERS}")

    await taken(opened, level)
    for size in (64, 8):
        rates[f"/{size}", level, clients].append(await rate(partial(reserve, size), clients))
    for number in range(OWNERS):
        await ipam.create_subnet(f"a{number}")
        await ipam.subnet_create_success(f"a{number}")
    rates["address", level, clients].append(await rate(allocate, clients))
    await opened.close()


async def by_broker(broker: str, url: str) -> float:
    """Return how many `subnet.create` a second are sent, carried out and answered."""
    opened = Database(settings.Database(url=url))
    await taken(opened, 0)
    await opened.close()
    async with Site.at(broker, url) as site, site.running():
        await site.until_consuming()
        async with Portal.opened(broker) as portal:
            began = time.perf_counter()
            sent = (
                portal.send("subnet.create", {"owner": f"b{number}"}) for number in range(MESSAGES)
            )
            await asyncio.gather(*sent)
            # Each is accepted, then it succeeds.
            await portal.until(lambda: len(portal.results) == 2 * MESSAGES, within=60)
            seconds = time.perf_counter() - began
            kinds = {message.type for message in portal.results}
            assert kinds == {"subnet.create.accepted", "subnet.create.succeeded"}
    return MESSAGES / seconds


def main() -> None:
    """Measure, and print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    spare_the_collector()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: defaultdict[Any, list[float]] = defaultdict(list)
    with folder("rabbit") as place, database() as url:
        rabbit = Rabbit(place / "rabbit")
        try:
            rabbit.start()
            for _ in range(rounds):
                for clients in CLIENTS:
                    for level in LEVELS:
                        asyncio.run(measure(url, level, clients, rates))
                rabbit.wait()
                rates["broker"].append(asyncio.run(by_broker(rabbit.url, url)))
        finally:
            rabbit.close()
    print(f"a second, median of {rounds} rounds, fsync on")
    print("clients   taken   floor |  /64  x floor  x empty |   /8  x floor | address x floor")
    for clients in CLIENTS:
        for level in LEVELS:
            bare, large, small, address = (
                statistics.median(rates[what, level, clients])
                for what in ("floor", "/64", "/8", "address")
            )
            empty = statistics.median(rates["/64", 0, clients])
            print(
                f"{clients:7d} {level:7d} {bare:7.0f} |{large:6.0f} {large / bare:7.2f}"
                f" {large / empty:8.2f} |{small:6.0f} {small / bare:7.2f} |{address:7.0f}"
                f" {address / bare:7.2f}"
            )
    print(f"by way of the broker: {statistics.median(rates['broker']):.0f} subnets")


if __name__ == "__main__":
    main()
