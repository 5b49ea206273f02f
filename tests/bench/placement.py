"""How many placements a second? `python -m tests.bench.placement`.

Decisions alone, a VM at a time, each seeing what those before it took; 100, 1,000, 10,000 hosts:

- floor: a best-fit scan with numpy: which hosts have the CPU, RAM and disk, and the least RAM left;
- ccfd: its filters and weights, spread and packed. Wanted: 0.05 times the floor.

Placements with their claims, each a transaction on one PostgreSQL with fsync on, by 16 clients, on
100 and 1,000 hosts. Wanted: 300 a second, and no host overfilled.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import structlog
from sqlalchemy import delete, insert, select

from ccfd import settings
from ccfd.daemon import spare_the_collector
from ccfd.sched import claims, placement
from ccfd.sched.hosts import HostRow, Hosts, Want
from ccfd.settings import Policy
from ccfd.store import tables
from ccfd.store.database import Database
from tests.bench.servers import database

HOSTS = (100, 1_000, 10_000)
WITH_CLAIMS = (100, 1_000)
CLIENTS = 16
SECONDS = 1.0
"""How long one measurement takes."""

WANT = Want(name="a", cpu=2, ram=2048, disk=20, island="default", image="sum")
ROOM = {"cpu": 64, "ram": 262_144, "disk": 4_000}


def rows(number: int) -> list[HostRow]:
    """Make hosts that are used to different degrees; every fifth has the image."""
    chance = random.Random(number)
    made = []
    for place in range(number):
        sizes: dict[str, Any] = {f"{size}_limit": amount for size, amount in ROOM.items()}
        sizes |= {f"{size}_used": chance.randrange(amount // 2) for size, amount in ROOM.items()}
        images = ("sum",) if place % 5 == 0 else ()
        made.append(
            HostRow(name=f"h{place:05}", island="default", state="up", images=images, **sizes)
        )
    return made


def rate(decide: Callable[[], None]) -> float:
    """Return how often a second *decide* can be done."""
    done, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < SECONDS:
        decide()
        done += 1
    return done / seconds


def floor(number: int) -> float:
    """Return decisions a second of the bare scan."""
    start = [
        np.array(
            [getattr(row, f"{size}_limit") - getattr(row, f"{size}_used") for row in rows(number)]
        )
        for size in ROOM
    ]
    cpu, ram, disk = start
    never = np.iinfo(np.int64).max

    def decide() -> None:
        fits = (cpu >= WANT.cpu) & (ram >= WANT.ram) & (disk >= WANT.disk)
        best = np.where(fits, ram, never).argmin()
        if not fits[best]:
            cpu[:], ram[:], disk[:] = ROOM["cpu"], ROOM["ram"], ROOM["disk"]
            return
        cpu[best] -= WANT.cpu
        ram[best] -= WANT.ram
        disk[best] -= WANT.disk

    return rate(decide)


def decisions(number: int, policy: Policy) -> float:
    """Return decisions a second of ccfd's placement."""
    empty = Hosts.of(rows(number))
    hosts = empty
    names = count()

    def decide() -> None:
        nonlocal hosts
        if next(names) % number == 0:
            hosts = empty
        hosts = hosts.having(WANT, placement.choose(hosts, WANT, policy))

    return rate(decide)


async def with_claims(url: str, number: int) -> float:
    """Return placements a second, each with its claim in a transaction; check every host."""
    opened = Database(settings.Database(url=url, pool=CLIENTS))
    made = [
        {
            "name": row.name,
            "island": row.island,
            "configured": True,
            "up": True,
            "draining": False,
            **{f"{size}_total": amount for size, amount in ROOM.items()},
            **{f"{size}_limit": amount for size, amount in ROOM.items()},
            **{f"{size}_used": getattr(row, f"{size}_used") for size in ROOM},
        }
        for row in rows(number)
    ]
    await opened.run(lambda tx: tx.execute(delete(tables.host)))
    await opened.run(lambda tx: tx.execute(insert(tables.host), made))
    numbers = count()
    end = time.perf_counter() + SECONDS
    took: list[str] = []

    async def client() -> None:
        while time.perf_counter() < end:
            place = partial(claims.place, f"s{next(numbers)}", [WANT], "spread")
            took.extend(await opened.run(place))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seconds = time.perf_counter() - began
    hosts = await opened.run(lambda tx: tx.all(select(tables.host)))
    for row, before in zip(sorted(hosts, key=lambda row: row.name), made, strict=True):
        for size in ROOM:
            used: Any = getattr(row, f"{size}_used")
            assert used <= getattr(row, f"{size}_limit"), f"{row.name} is overfilled"
            more = took.count(row.name) * getattr(WANT, size)
            assert used == before[f"{size}_used"] + more, f"{row.name} has lost count"
    await opened.close()
    return len(took) / seconds


def main() -> None:
    """Measure, and print the tables."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    spare_the_collector()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: defaultdict[Any, list[float]] = defaultdict(list)
    with database() as url:
        for _ in range(rounds):
            for number in HOSTS:
                rates["floor", number].append(floor(number))
                rates["spread", number].append(decisions(number, "spread"))
                rates["pack", number].append(decisions(number, "pack"))
            for number in WITH_CLAIMS:
                rates["claims", number].append(asyncio.run(with_claims(url, number)))
    middle = {key: statistics.median(values) for key, values in rates.items()}
    print(f"decisions a second, median of {rounds} rounds")
    print("  hosts    floor |  spread x floor |    pack x floor")
    for number in HOSTS:
        bare = middle["floor", number]
        each = (middle[policy, number] for policy in ("spread", "pack"))
        print(
            f"{number:7d} {bare:8.0f}" + "".join(f" |{one:8.0f} {one / bare:7.2f}" for one in each)
        )
    print(f"with claims on PostgreSQL, {CLIENTS} clients, fsync on; no host was overfilled")
    for number in WITH_CLAIMS:
        print(f"{number:7d} {middle['claims', number]:8.0f}")


if __name__ == "__main__":
    main()
