"""What does the star's detour cost? `python -m tests.bench.detour [ROUNDS]` (docs/adr/0002).

Between two ends on two hosts: latency and TCP throughput by way of the network node, as slices
have it, and through a direct tunnel, in turn. All switches (userspace datapath) and both ends
share this machine's processors, so the throughput tells what a byte costs of them, not of a link.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog

from ccfd.model import names
from ccfd.model.network import Bridge, Port
from ccfd.network import Fabric
from tests.bench.switches import Place, namespace, places, settings_of, sh

STAR, DIRECT = 1001, 1002
PINGS = 200
SECONDS = 2.0
_RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 5001))
print("ready", flush=True)
peer, _ = server.accept()
began, taken = time.perf_counter(), 0
while part := peer.recv(1 << 20):
    taken += len(part)
print(taken * 8 / (time.perf_counter() - began) / 1e6)
"""
_SEND = """
import socket, sys, time
peer, until, block = socket.create_connection((sys.argv[1], 5001)), 0.0, bytes(1 << 18)
until = time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < until:
    peer.sendall(block)
"""


class End:
    """Who is behind a port: a namespace with an address."""

    def __init__(self, space: str, address: str) -> None:
        self.space = space
        self.address = address
        self._inside = ("ip", "netns", "exec", space)

    def run(self, *words: str) -> str:
        """Run a command inside and return what it prints."""
        return sh(*self._inside, *words)

    def ping(self, other: End) -> float:
        """Return the median round trip to *other*, in milliseconds."""
        said = self.run("ping", "-c", str(PINGS), "-i", "0.005", other.address)
        return statistics.median(float(ms) for ms in re.findall(r"time=([\d.]+)", said))

    def send(self, other: End) -> float:
        """Return how fast *other* takes what is sent, in Mbit/s."""
        receive = [*other._inside, sys.executable, "-c", _RECEIVE, other.address]
        with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiving:
            assert receiving.stdout is not None
            assert receiving.stdout.readline() == "ready\n"
            self.run(sys.executable, "-c", _SEND, other.address, str(SECONDS))
            return float(receiving.stdout.readline())


@contextmanager
def ends(vni: int, *hosts: Place) -> Iterator[tuple[End, ...]]:
    """Give an end on each host, for the port `port(vni)` of the slice's bridge."""
    made = tuple(End(f"{host.name}-{vni}", f"10.0.0.{n}") for n, host in enumerate(hosts, start=1))
    with ExitStack() as stack:
        for end, host in zip(made, hosts, strict=True):
            stack.enter_context(namespace(end.space))
            sh(
                *("ip", "-n", host.name, "link", "add", port(vni).name, "type", "veth"),
                *("peer", "name", "eth0", "netns", end.space),
            )
            sh("ip", "-n", host.name, "link", "set", port(vni).name, "up")
            # A userspace switch passes on what it gets: checksums must be there already.
            end.run("ethtool", "-K", "eth0", "tx", "off")
            end.run("ip", "address", "add", f"{end.address}/24", "dev", "eth0")
            end.run("ip", "link", "set", "eth0", "up")
        yield made


def port(vni: int) -> Port:
    """Return the port of an end."""
    return Port(name=f"ccf-end-{vni}", kind="system")


def bridges(node: Place, first: Place, second: Place) -> list[Bridge]:
    """Return those of a slice that is a star, and of one with a direct tunnel."""

    def one(host: str, vni: int, *ports: Port) -> Bridge:
        return Bridge(host=host, slice=f"s{vni}", vni=vni, ports=ports)

    def to(vni: int, other: Place) -> Port:
        return Port(name=names.tunnel(vni, other.address), kind="vxlan", remote_ip=other.address)

    return [
        one(names.NODE, STAR, to(STAR, first), to(STAR, second)),
        one("h1", STAR, to(STAR, node), port(STAR)),
        one("h2", STAR, to(STAR, node), port(STAR)),
        one("h1", DIRECT, to(DIRECT, second), port(DIRECT)),
        one("h2", DIRECT, to(DIRECT, first), port(DIRECT)),
    ]


async def build(node: Place, *hosts: Place) -> None:
    """Make the bridges of both slices."""
    fabric = Fabric(settings_of(node, *hosts), timeout=30)
    for bridge in bridges(node, *hosts):
        await fabric.make(bridge)
    await fabric.close()


def main() -> None:
    """Measure, and print both."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(prog="python -m tests.bench.detour")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    rounds = parser.parse_args().rounds
    with (
        places("node", "h1", "h2") as (node, *hosts),
        ends(STAR, *hosts) as star,
        ends(DIRECT, *hosts) as direct,
    ):
        asyncio.run(build(node, *hosts))
        ways = {"by the node": star, "direct": direct}
        ms: dict[str, list[float]] = {way: [] for way in ways}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for first, second in ways.values():
            first.ping(second)  # addresses are learnt
        for _ in range(rounds):
            for way, (first, second) in ways.items():
                ms[way].append(first.ping(second))
                rates[way].append(first.send(second))
        for way in ways:
            rate = statistics.median(rates[way])
            print(f"{way:12s} {statistics.median(ms[way]):6.3f} ms   {rate:7.0f} Mbit/s")


if __name__ == "__main__":
    main()
