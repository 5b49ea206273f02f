"""What does one more VM port cost on a full host? `python -m tests.bench.ports [ROUNDS]`.

The 60th port of a slice, on a switch that carries 300, beside the first port of a slice there and
the first on an empty switch: our driver's calls (plug, and unplug before the next round), in turn.
Beside them what the switch itself takes for a change that changes nothing: ovs-vswitchd goes
through all its ports at each.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import time
from dataclasses import dataclass, field

import structlog

from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import Fabric
from tests.bench.switches import Place, places, settings_of

SLICES = 5
EACH = 60
"""VM ports of each slice on the full host: 300 in all."""


def tap(number: int) -> Port:
    """Return the port of VM number so and so."""
    vm = f"{number:08x}-0000-4000-8000-000000000000"
    return Port(
        name=f"ccf-{number:011x}",
        kind="system",
        vm=vm,
        mac=f"02:e9:0a:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
    )


def taps(slice_number: int, count: int) -> tuple[Port, ...]:
    """Return so many ports of a slice."""
    first = (slice_number + 1) * 1000
    return tuple(map(tap, range(first, first + count)))


def bridge(host: str, slice_number: int, node: Place) -> Bridge:
    """Return a slice's bridge, with its tunnel to the node."""
    vni = 1001 + slice_number
    tunnel = Port(name=names.tunnel(vni, node.address), kind="vxlan", remote_ip=node.address)
    return Bridge(host=host, slice=f"s{slice_number}", vni=vni, ports=(tunnel,))


@dataclass
class Case:
    """A port that is plugged, and the seconds that it took."""

    called: str
    host: str
    slice_number: int
    port: Port
    seconds: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)

    async def round(self, fabric: Fabric) -> None:
        """Plug the port, have the switch apply nothing, unplug the port."""
        vni = 1001 + self.slice_number
        ports = Ports(host=self.host, slice=f"s{self.slice_number}", vni=vni, ports=(self.port,))
        began = time.perf_counter()
        await fabric.plug(ports)
        self.seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        await fabric.probe(self.host)
        self.idle.append(time.perf_counter() - began)
        await fabric.unplug(ports)


async def measure(node: Place, empty: Place, full: Place, rounds: int) -> None:
    """Fill one host, then plug in turn."""
    cases = [
        Case("first, empty switch", "h1", 0, taps(0, 1)[0]),
        Case("first of a slice, full switch", "h2", SLICES, taps(SLICES, 1)[0]),
        Case(f"{EACH}th of a slice, full switch", "h2", 0, taps(0, EACH)[-1]),
    ]
    empty.links(_links(taps(0, 1)))
    full.links(_links(taps(SLICES, 1)))
    fabric = Fabric(settings_of(node, empty, full), timeout=60)
    await fabric.make(bridge("h1", 0, node))
    await fabric.make(bridge("h2", SLICES, node))
    for number in range(SLICES):
        standing = taps(number, EACH)
        full.links(_links(standing))
        await fabric.make(bridge("h2", number, node))
        vni = 1001 + number
        ports = Ports(
            host="h2", slice=f"s{number}", vni=vni, ports=standing[: -1 if number == 0 else EACH]
        )
        await fabric.plug(ports)
    for _ in range(rounds):
        for case in cases:
            await case.round(fabric)
    await fabric.close()
    print(
        f"VM port                          plugged   the switch alone   (medians of {rounds}, ms)"
    )
    for case in cases:
        plugged, idle = (statistics.median(each) * 1000 for each in (case.seconds, case.idle))
        print(f"{case.called:30s} {plugged:9.1f} {idle:12.1f}")
    nothing, first, last = (statistics.median(case.seconds) for case in cases)
    print(
        f"{last / first:.2f} x the first of a slice there (wanted: at most 1.3), "
        f"{last / nothing:.2f} x the first of an empty switch"
    )


def _links(ports: tuple[Port, ...]) -> list[str]:
    commands = ("tuntap add dev {} mode tap", "link set {} up")
    return [command.format(port.name) for port in ports for command in commands]


def main() -> None:
    """Measure, and print the medians."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ports")
    parser.add_argument("rounds", nargs="?", type=int, default=40)
    rounds = parser.parse_args().rounds
    with places("node", "empty", "full") as (node, empty, full):
        asyncio.run(measure(node, empty, full, rounds))


if __name__ == "__main__":
    main()
