"""What does ccfd add to the switches' own time? `python -m tests.bench.fabric [ROUNDS]`.

The fabric of 50 slices on two switches, some slices at once: our driver, which looks before and
after each change, beside a bare script that sends the same OVSDB transactions, and waits as well
for ovs-vswitchd to have applied them. The two in turn; between them all is removed, untimed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from unittest.mock import patch

import structlog

from ccfd.model import names
from ccfd.model.network import Bridge, Port
from ccfd.network import Fabric
from ccfd.network.ovsdb import Operation, Ovsdb, Result
from tests.bench.switches import Place, places, settings_of

SLICES = 50
AT_ONCE = 8
"""Slices whose bridges are made at the same time."""

T = TypeVar("T")
Sent = list[tuple[str, Sequence[Operation]]]


def bridges(node: Place, host: Place) -> list[tuple[Bridge, Bridge]]:
    """Return the two bridges of each slice, with a tunnel between them."""

    def one(called: str, number: int, other: Place) -> Bridge:
        vni = 1001 + number
        tunnel = Port(name=names.tunnel(vni, other.address), kind="vxlan", remote_ip=other.address)
        return Bridge(host=called, slice=f"s{number}", vni=vni, ports=(tunnel,), about="{}")

    return [(one(names.NODE, n, host), one("h1", n, node)) for n in range(SLICES)]


async def timed(work: Callable[[T], Awaitable[object]], slices: Sequence[T]) -> float:
    """Return the seconds that *work* takes for all slices, `AT_ONCE` at a time."""
    waiting = iter(slices)

    async def some() -> None:
        for one in waiting:
            await work(one)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return time.perf_counter() - began


async def measure(node: Place, host: Place, rounds: int) -> None:
    """Build in turn, and print both medians."""
    fabric = Fabric(settings_of(node, host), timeout=60)
    databases = {place.database: Ovsdb(place.database, timeout=60) for place in (node, host)}
    wanted = bridges(node, host)

    async def ours(pair: tuple[Bridge, Bridge]) -> None:
        await asyncio.gather(*map(fabric.make, pair))

    async def bare(sent: Sent) -> None:
        await asyncio.gather(*(databases[to].transact_applied(ops) for to, ops in sent))

    async def clear() -> None:
        for place in (node, host):
            names_there = [name for name in place.vsctl("list-br").split() if name != "br-phy"]
            place.vsctl(*(word for name in names_there for word in ("--", "del-br", name)))

    recorded = [await record(ours(pair)) for pair in wanted]
    await clear()
    mine: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        mine.append(await timed(ours, wanted))
        await clear()
        floor.append(await timed(bare, recorded))
        await clear()
    for database in databases.values():
        await database.close()
    await fabric.close()
    low, high = statistics.median(floor), statistics.median(mine)
    print(f"bare script   {low:6.2f} s   {', '.join(f'{one:.2f}' for one in floor)}")
    print(f"ccfd's fabric {high:6.2f} s   {', '.join(f'{one:.2f}' for one in mine)}")
    print(f"ratio {high / low:.2f} (wanted: at most 1.3); {SLICES} slices, {AT_ONCE} at once")


async def record(work: Awaitable[object]) -> Sent:
    """Return the transactions that *work* sends, by the address of the database."""
    sent: Sent = []
    send = Ovsdb.transact_applied

    async def noted(self: Ovsdb, ops: Sequence[Operation]) -> list[Result]:
        sent.append((self._address, list(ops)))
        return await send(self, ops)

    with patch.object(Ovsdb, "transact_applied", noted):
        await work
    return sent


def main() -> None:
    """Measure, and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fabric")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    rounds = parser.parse_args().rounds
    with places("node", "h1") as (node, host):
        asyncio.run(measure(node, host, rounds))


if __name__ == "__main__":
    main()
