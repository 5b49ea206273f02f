"""The watch over a real Open vSwitch: what it tells of ports, tunnels, controllers, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from ccfd.model import names
from ccfd.model.network import Controller, Export, Monitoring, Port
from ccfd.network import Fabric
from ccfd.network.bridges import datapath_id
from ccfd.network.mirror import WatchedPort
from ccfd.network.monitor import Monitor, News
from ccfd.settings import Settings
from tests.collectors import OBSERVATION_POINT, PACKETS, SOURCE_IPV4, Collector
from tests.host.switch import (
    Guest,
    Switch,
    bridge,
    link,
    tap,
    tunnel,
    vm,
)


async def until(true: Callable[[], bool], within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


class Watch:
    """A monitor that runs, and what it told."""

    def __init__(self, settings: Settings, probe: float) -> None:
        self.monitor = Monitor(settings, probe=probe)
        self.news: list[News] = []
        self.monitor.listen(self.news.append)

    def told(self, what: str) -> int:
        return sum(news.what == what for news in self.news)

    def port(self, name: str) -> WatchedPort | None:
        return next((one for one in self.monitor.ports(names.NODE) if one.name == name), None)

    def is_up(self, name: str) -> bool:
        port = self.port(name)
        return port is not None and port.up is True


@contextlib.asynccontextmanager
async def watching(settings: Settings, probe: float = 5) -> AsyncIterator[Watch]:
    watch = Watch(settings, probe)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watch.monitor.run())
        yield watch
        running.cancel()


async def test_the_watch_follows_ports_counters_controllers_and_restarts(
    fabric: Fabric, switch: Switch, settings: Settings, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    wanted = bridge(tunnel("172.20.0.2"), link(10), link(11))
    async with watching(settings) as watch:
        await until(lambda: watch.told("heard") == 1)
        await fabric.make(wanted)
        await until(lambda: watch.port(one.name) is not None)
        waiting = watch.port(one.name)
        assert waiting is not None
        assert (waiting.up, waiting.vm, waiting.bridge) == (False, vm(10), names.GUARD)
        for guest in guests:
            guest.start()
        await until(lambda: watch.is_up(one.name) and watch.is_up(two.name))
        assert watch.is_up(names.tunnel(1001, "172.20.0.2"))

        def rate() -> float:
            port = watch.port(two.name)
            return port.rates.receive.bytes if port is not None and port.rates else 0

        assert one.reaches(two.address)
        with pinging(one, two):
            # 1,042 bytes with their Ethernet header, fifty a second; refreshed every five.
            await until(lambda: 20_000 < rate() < 100_000)
        port = watch.port(two.name)
        assert port is not None
        assert port.counters is not None
        assert port.counters.receive.bytes > 50_000

        gone = Controller(address="127.0.0.1", port=6634)
        await fabric.make(replace(wanted, controller=gone))
        await until(lambda: bool(seen_controllers(watch)))
        assert seen_controllers(watch) == [("tcp:127.0.0.1:6634", False)]

        def identity() -> str:
            name = names.bridge(1001)
            return switch.vsctl("--if-exists", "get", "bridge", name, "datapath_id").strip('"')

        known_by = datapath_id(1001, names.NODE)
        assert identity() == known_by
        switch.kill()
        switch.start()
        await until(lambda: watch.told("restarted") == 1)
        await until(lambda: identity() == known_by)
        one.stop()
        await until(lambda: not watch.is_up(one.name))
        assert watch.told("lost") == 0


async def test_a_frozen_database_is_noticed_and_heard_again(
    fabric: Fabric, switch: Switch, settings: Settings
) -> None:
    await fabric.make(bridge(link(10)))
    async with watching(settings, probe=0.5) as watch:
        await until(lambda: watch.told("heard") >= 1)
        before = watch.told("heard")
        switch.freeze_database(signal.SIGSTOP)
        try:
            await until(lambda: watch.monitor.problem(names.NODE) is not None)
            assert watch.port(tap(10)) is None
        finally:
            switch.freeze_database(signal.SIGCONT)
        await until(lambda: watch.told("heard") > before)
        # A server so slow that it is taken for lost once more is heard again, too.
        await until(lambda: watch.port(tap(10)) is not None)


async def test_collectors_get_samples_and_flows_until_the_slice_has_none(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    for guest in guests:
        guest.start()
    with contextlib.closing(Collector("172.20.0.1")) as collector:
        told = Monitoring(
            sflow=f"172.20.0.1:{collector.sflow_port}", ipfix=f"172.20.0.1:{collector.ipfix_port}"
        )
        # The other is no VM's, so its port is on the slice's own bridge, as a namespace's leg is.
        of_vm = Export(to=Monitoring(ipfix=told.ipfix), sampling=2, polling=1)
        wanted = bridge(link(10), Port(name=two.name, kind="system"))
        watched = replace(
            wanted,
            export=replace(of_vm, to=told),
            ports=(replace(wanted.ports[0], export=of_vm), wanted.ports[1]),
        )
        await fabric.make(watched)
        (seen,) = (await fabric.inventory(names.NODE)).bridges
        assert seen.export == watched.export
        changes = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
        await fabric.make(watched)
        assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == changes
        assert one.reaches(two.address)
        back = (two.address, one.address)

        def has_come() -> bool:
            collector.look()
            counters = sum(datagram.counters for datagram in collector.sflows)
            flows = {back, (one.address, two.address)}
            return back in collector.sampled() and flows <= collector.ipfix.flows() and counters > 0

        with pinging(one, two):
            await until(has_come)
        assert {(one.version, one.agent) for one in collector.sflows} == {(5, "172.20.0.1")}
        assert {sample.rate for one in collector.sflows for sample in one.samples} == {2}
        assert collector.ipfix.versions == {10}
        assert collector.ipfix.domains == {1001}
        assert all(int.from_bytes(one[PACKETS]) > 0 for one in collector.ipfix.records)

    # Somebody else's hand is put right, and a bridge without an export leaves no row behind.
    switch.vsctl("set", "sflow", ".", "sampling=1")
    await fabric.make(watched)
    assert switch.vsctl("get", "sflow", ".", "sampling") == "2"
    await fabric.make(wanted)
    assert switch.vsctl("list", "sflow") + switch.vsctl("list", "ipfix") == ""
    await fabric.make(watched)
    await fabric.remove(watched)
    assert switch.vsctl("list", "sflow") + switch.vsctl("list", "ipfix") == ""


async def test_ipfix_tells_what_vms_of_one_host_send_each_other_and_sflow_does_not(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    for guest in guests:
        guest.start()
    with contextlib.closing(Collector("172.20.0.1")) as collector:
        sflow, ipfix = (
            f"172.20.0.1:{port}" for port in (collector.sflow_port, collector.ipfix_port)
        )
        told = Export(to=Monitoring(ipfix=ipfix), sampling=1, polling=1)
        wanted = bridge(link(10), link(11))
        watched = replace(
            wanted,
            export=replace(told, to=Monitoring(sflow=sflow, ipfix=ipfix)),
            ports=tuple(replace(port, export=told) for port in wanted.ports),
        )
        await fabric.make(wanted)
        await fabric.make(watched)
        seen = await fabric.inventory(names.NODE)
        taps = {port.name: port.export for port in seen.ports if port.vm is not None}
        assert taps == {one.name: told, two.name: told}
        assert seen.strays == ()
        changes = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
        await fabric.make(watched)
        assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == changes
        (guarding,) = fabric.guards
        assert await guarding.look() == [], "flows are listed as they were set"
        switch.ofctl("del-flows")
        lost = await guarding.look()
        assert [(wrong.vm, wrong.slice) for wrong in lost] == [(vm(10), "demo"), (vm(11), "demo")]
        assert await guarding.restore() == (2, 0)
        assert await guarding.look() == []
        there, back = (one.address, two.address), (two.address, one.address)

        def has_come() -> bool:
            collector.look()
            return {there, back} <= collector.ipfix.flows() and len(collector.sflows) > 0

        with pinging(one, two):
            await until(has_come)
        assert collector.ipfix.domains == {1001}
        points = {
            (str(ip_address(record[SOURCE_IPV4])), int.from_bytes(record[OBSERVATION_POINT]))
            for record in collector.ipfix.records
            if SOURCE_IPV4 in record
        }
        points = {(source, point) for source, point in points if source in there}
        numbers = {(one.address, int(switch.interface(one.name, "ofport"))) for one in guests}
        assert points == numbers, "each packet is told of once, where it was sent"
        assert not {there, back} & collector.sampled(), "sFlow tells of bridges only"

    # A set that lost its port is found by its tag; the guard goes though sets refer to it.
    switch.vsctl("del-port", names.GUARD, one.name)
    assert [stray.port for stray in (await fabric.inventory(names.NODE)).strays] == [one.name]
    await fabric.make(watched)
    assert (await fabric.inventory(names.NODE)).strays == ()
    await fabric.make(wanted)
    assert switch.vsctl("list", "flow_sample_collector_set") + switch.vsctl("list", "ipfix") == ""
    assert "sample" not in switch.ofctl("dump-flows")
    await fabric.make(watched)
    await fabric.remove(watched)
    assert switch.vsctl("list", "flow_sample_collector_set") + switch.vsctl("list", "ipfix") == ""
    assert names.GUARD not in switch.vsctl("--columns=name", "list", "bridge")


def seen_controllers(watch: Watch) -> list[tuple[str, bool]]:
    found = watch.monitor.bridge(names.NODE, names.bridge(1001))
    return [(one.target, one.connected) for one in found.controllers] if found else []


@contextlib.contextmanager
def pinging(guest: Guest, other: Guest) -> Iterator[None]:
    argv = ("ip", "netns", "exec", guest.space, "ping", "-q", "-i0.02", "-s1000", other.address)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
