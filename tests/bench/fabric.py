"""What does ccfd add to the switches' own time? `python -m tests.bench.fabric [ROUNDS] [--vms N]`.

The fabric of 50 slices on two switches, some slices at once: our driver, which looks at what is
there, beside a bare script that sends the same OVSDB transactions, and waits as well for
ovs-vswitchd to have applied them. They take turns; between them all is removed, untimed.

With VMs (so many a slice, plugged in before their links exist, as `slice.create` does) the driver
also gives each its flows, which are no OVSDB: so there is a third, the bare script that hands over
the same flows to `ovs-ofctl`, in as few processes as the driver.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from unittest.mock import patch

import structlog

from ccfd.model import names
from ccfd.model.network import Bridge, Port
from ccfd.network import Fabric
from ccfd.network.endpoints import Endpoint
from ccfd.network.ofctl import Ofctl
from ccfd.network.openflow import endpoint, written
from ccfd.network.ovsdb import Operation, Ovsdb, Result
from ccfd.settings import Tls
from tests.bench.switches import Place, places, settings_of

SLICES = 50
AT_ONCE = 8
"""Slices whose bridges are made at the same time."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sent:
    """What the driver sends for one slice: transactions by their database, and lines of flows."""

    transactions: list[tuple[str, Sequence[Operation]]] = field(default_factory=list)
    flows: list[tuple[Endpoint, Sequence[str]]] = field(default_factory=list)


def bridges(node: Place, host: Place, number: int, vms: int) -> tuple[Bridge, Bridge]:
    """Return the two bridges of a slice, with a tunnel between them, and its VMs on the host."""
    vni = 1001 + number

    def one(called: str, other: Place, *taps: Port) -> Bridge:
        tunnel = Port(name=names.tunnel(vni, other.address), kind="vxlan", remote_ip=other.address)
        ports = (tunnel, *taps)
        return Bridge(host=called, slice=f"s{number}", vni=vni, ports=ports, about="{}")

    first = number * 100
    return one(names.NODE, host), one("h1", node, *map(tap, range(first, first + vms)))


def tap(number: int) -> Port:
    """Return the port of VM number so and so."""
    return Port(
        name=f"ccf-{number:011x}",
        kind="system",
        vm=f"{number:08x}-0000-4000-8000-000000000000",
        mac=f"02:e9:0a:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
    )


async def timed(work: Callable[[T], Awaitable[object]], slices: Sequence[T]) -> float:
    """Return the seconds that *work* takes for all slices, `AT_ONCE` at a time."""
    waiting = iter(slices)

    async def some() -> None:
        for one in waiting:
            await work(one)

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return time.perf_counter() - began


async def measure(node: Place, host: Place, rounds: int, vms: int) -> None:
    """Build in turn, and print the medians."""
    fabric = Fabric(settings_of(node, host), timeout=60)
    databases = {place.database: Ovsdb(place.database, timeout=60) for place in (node, host)}
    guard = endpoint(None, host.database, host.address)
    ofctls = {guard: Ofctl("h1", guard, Tls())}
    wanted = [bridges(node, host, number, vms) for number in range(SLICES)]
    # The guard's bridge goes with its last VM, and transactions name it by its id: one stays.
    kept = bridges(node, host, SLICES, 1)[1]
    await fabric.make(kept)

    async def ours(pair: tuple[Bridge, Bridge]) -> None:
        await asyncio.gather(*map(fabric.make, pair))

    async def bare(sent: Sent) -> None:
        await asyncio.gather(
            *(databases[to].transact_applied(ops) for to, ops in sent.transactions)
        )

    async def bare_and_flows(sent: Sent) -> None:
        await bare(sent)
        await asyncio.gather(*(ofctls[to].change(lines) for to, lines in sent.flows))

    def clear() -> None:
        for place in (node, host):
            empty(place, kept)
        host.run("ovs-ofctl", "-O", "OpenFlow13", "del-flows", written(guard))

    recorded = [await record(ours(pair)) for pair in wanted]
    clear()
    turns: dict[str, Callable[[], Awaitable[float]]] = {
        "bare script": lambda: timed(bare, recorded),
        "with flows": lambda: timed(bare_and_flows, recorded),
        "ccfd's fabric": lambda: timed(ours, wanted),
    }
    if not vms:
        del turns["with flows"]
    seconds: dict[str, list[float]] = {called: [] for called in turns}
    for _ in range(rounds):
        for called, turn in turns.items():
            seconds[called].append(await turn())
            clear()
    for database in databases.values():
        await database.close()
    await fabric.close()
    report(seconds, vms)


def report(seconds: dict[str, list[float]], vms: int) -> None:
    """Print the medians, and what they are of the bare script's."""
    floor = statistics.median(seconds["bare script"])
    for called, each in seconds.items():
        median = statistics.median(each)
        rest = ", ".join(f"{one:.2f}" for one in each)
        print(f"{called:14s} {median:6.2f} s   {median / floor:5.2f} x   {rest}")
    print(
        f"{SLICES} slices with {vms} VMs each, {AT_ONCE} at once; "
        "wanted: at most 1.3 x the bare script"
    )


def empty(place: Place, kept: Bridge) -> None:
    """Remove all bridges of slices and all VMs' ports, but those of one slice."""
    bridges_there = set(place.vsctl("list-br").split())
    words = ["init"]
    for name in bridges_there - {"br-phy", names.GUARD, names.bridge(kept.vni)}:
        words += ["--", "del-br", name]
    if names.GUARD in bridges_there:
        stay = {port.name for port in kept.ports}
        stay |= {names.guard_patch(port.vm) for port in kept.ports if port.vm is not None}
        for name in set(place.vsctl("list-ports", names.GUARD).split()) - stay:
            words += ["--", "del-port", names.GUARD, name]
    place.vsctl(*words)


async def record(work: Awaitable[object]) -> Sent:
    """Return what *work* sends."""
    sent = Sent()
    transact, change = Ovsdb.transact_applied, Ofctl.change

    async def transaction(self: Ovsdb, ops: Sequence[Operation]) -> list[Result]:
        sent.transactions.append((self._address, list(ops)))
        return await transact(self, ops)

    async def flows(self: Ofctl, lines: Sequence[str]) -> None:
        sent.flows.append((self._place, list(lines)))
        await change(self, lines)

    with (
        patch.object(Ovsdb, "transact_applied", transaction),
        patch.object(Ofctl, "change", flows),
    ):
        await work
    return sent


def main() -> None:
    """Measure, and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fabric")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--vms", type=int, default=0, help="VMs of each slice")
    options = parser.parse_args()
    with places("node", "h1") as (node, host):
        asyncio.run(measure(node, host, options.rounds, options.vms))


if __name__ == "__main__":
    main()
