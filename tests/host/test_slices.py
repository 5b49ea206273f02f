"""ccfd on real parts: a portal's message becomes VMs that talk, and vanishes without trace."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from ccfd.model import names
from tests import traces
from tests.ccfd_process import CcfdProcess, sqlite
from tests.collectors import Collector
from tests.host import diagnosis, steady_udp
from tests.lab import Lab
from tests.portal import Body, Portal

BOOT_WITHIN = 150.0
BANDWIDTH = 4
"""Mbit/s."""
AS_MUCH = pytest.approx(BANDWIDTH, rel=0.15)


def vms(*called: str) -> list[dict[str, Any]]:
    return [{"name": name, "flavor": "tiny", "image": "tiny"} for name in called]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("slices") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    # Collectors of sFlow and IPFIX are told soon, of every packet.
    process = CcfdProcess(lab, {"CCFD_SLICES__SAMPLING": "1", "CCFD_SLICES__POLLING": "1"})
    process.start()
    yield process
    assert process.stop() == 0, process.tail()


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


def assert_nothing_is_left(lab: Lab, ccfd: CcfdProcess) -> None:
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}


async def guest(lab: Lab, vm: str, line: str, within: float = BOOT_WITHIN) -> str:
    """Run a shell line in a guest until it succeeds."""
    end = time.monotonic() + within
    while True:
        try:
            return await asyncio.to_thread(lab.guest, vm, ["sh", "-c", line])
        except Exception:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.3)


async def hold_their_leases(lab: Lab, document: Body) -> None:
    for vm in document["vms"]:
        try:
            shown = await guest(lab, vm["vm"], "ip -4 -o addr show eth0 | grep inet && hostname")
        except Exception:
            pytest.fail(diagnosis.of_vm(lab, vm))
        assert f" {vm['ip']}/" in shown
        assert vm["name"] in shown


async def reach_each_other(lab: Lab, document: Body) -> None:
    for one in document["vms"]:
        for other in document["vms"]:
            line = f"timeout 5 wget -qO- http://{other['ip']}/"
            assert (await guest(lab, one["vm"], line)).strip() == other["name"]


async def have_their_ports_counted(ccfd: CcfdProcess, document: Body) -> None:
    """Wait until the topology is whole and Prometheus has counters of all VMs (every 5 s)."""
    end = time.monotonic() + 90
    while True:
        found = ccfd.get(f"/v1/slices/{document['slice']}/topology")
        ports = [port for port in found["ports"] if port["kind"] == "vm"]
        if (
            {link["state"] for link in found["links"]} == {"up"}
            and {port["vm"] for port in ports} == {vm["vm"] for vm in document["vms"]}
            and all((port["receive"] or {}).get("bytes", 0) > 500 for port in ports)
        ):
            break
        assert time.monotonic() < end, found
        await asyncio.sleep(0.1)
    assert sorted(link["kind"] for link in found["links"]) == [
        "namespace",
        *["tunnel"] * len(document["hosts"]),
        *["vm"] * len(ports),
    ]
    for port in ports:
        labels = f'slice="{document["slice"]}",vm="{port["vm"]}"'
        for way in ("receive", "transmit"):
            for what in ("bytes", "packets"):
                assert ccfd.metric(f"ccfd_port_{way}_{what}_total", labels) > 0


async def speed_from(lab: Lab, document: Body, vm: Body) -> float:
    """Return the Mbit/s that arrive on the network node of twice a VM's bandwidth."""
    name, inside = names.namespace(document["vni"]), document["subnet"].partition("/")[0]
    counter = ["ip", "netns", "exec", name, "cat", "/proc/uptime", _counted("inside", "rx")]

    async def look() -> str:
        return await asyncio.to_thread(lambda: lab.run("node", counter).stdout)

    line = steady_udp.sender(inside, 2 * BANDWIDTH, seconds=3)
    return await _while_sending(asyncio.to_thread(lab.guest, vm["vm"], ["sh", "-c", line]), look)


async def speed_towards(lab: Lab, document: Body, vm: Body) -> float:
    """Return the Mbit/s that the switch hands to a VM's link of twice its bandwidth.

    A guest cannot say when it got them: its clock stands still while its host is busy.
    """
    counter = ["cat", "/proc/uptime", _counted(names.tap(vm["vm"]), "tx")]

    async def look() -> str:
        return await asyncio.to_thread(lambda: lab.run(vm["host"], counter).stdout)

    words = ("python3", "-c", steady_udp.SENDER, vm["ip"], str(2 * BANDWIDTH), "3")
    argv = ["ip", "netns", "exec", names.namespace(document["vni"]), *words]
    return await _while_sending(asyncio.to_thread(lab.run, "node", argv), look)


def _counted(link: str, way: str) -> str:
    return f"/sys/class/net/{link}/statistics/{way}_bytes"


async def _while_sending(sending: Awaitable[Any], look: Callable[[], Awaitable[str]]) -> float:
    """Return the Mbit/s by which a counter grows in the middle of *sending*."""
    async with asyncio.TaskGroup() as group:

        async def send() -> None:
            await sending

        group.create_task(send())
        seen = []
        for _ in range(2):
            await asyncio.sleep(1)
            up, _idle, count = (await look()).split()
            seen.append((float(up), int(count)))
    (began, before), (ended, after) = seen
    return (after - before) * 8 / (ended - began) / 1e6


async def are_told_to_collectors(lab: Lab, portal: Portal, document: Body) -> None:
    """Have both kinds of collectors told of what VMs of two hosts send each other."""
    address = lab.layout.root_management
    with contextlib.closing(Collector(address)) as collector:
        told = {
            "sflow": f"{address}:{collector.sflow_port}",
            "ipfix": f"{address}:{collector.ipfix_port}",
        }
        done = await portal.ask("slice.update", slice="demo", monitoring=told)
        assert done["result"]["monitoring"] == told, done
        ips = [vm["ip"] for vm in document["vms"]]
        both = {(ips[0], ips[1]), (ips[1], ips[0])}
        end = time.monotonic() + 60
        while not (both <= collector.sampled() and both <= collector.ipfix.flows()):
            assert time.monotonic() < end, (collector.sampled(), collector.ipfix.flows())
            await reach_each_other(lab, document)
            await asyncio.sleep(0.5)
            collector.look()
        agents = {one.agent for one in collector.sflows if one.samples}
        assert agents <= {lab.layout.tunnel(place) for place in ("h1", "h2", "node")}
        assert collector.ipfix.domains == {document["vni"]}
        gone = await portal.ask("slice.update", slice="demo", monitoring=None)
        assert gone["result"]["monitoring"] is None, gone


async def test_a_slice_lives_and_vanishes(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    heard: list[Body] = []
    made = await portal.ask(
        "slice.create", show=heard.append, slice="demo", gateway=False, vms=vms("a", "b")
    )
    assert made["outcome"] == "succeeded", made
    assert heard[0]["outcome"] == "accepted"
    progress = [body["progress"] for body in heard if body["outcome"] == "progress"]
    assert {one["status"] for one in progress} == {"started", "done"}
    assert {one["of"] for one in progress} == {len(progress) // 2}
    document = ccfd.get("/v1/slices/demo")
    assert document == made["result"]
    assert {vm["host"] for vm in document["vms"]} == {"h1", "h2"}
    await hold_their_leases(lab, document)
    await reach_each_other(lab, document)
    mtu = await guest(lab, document["vms"][0]["vm"], "cat /sys/class/net/eth0/mtu")
    assert mtu.strip() == "1550"

    await have_their_ports_counted(ccfd, document)
    await are_told_to_collectors(lab, portal, document)

    limited = {**vms("c")[0], "bandwidth": BANDWIDTH}
    grown = await portal.ask("vm.create", slice="demo", **limited)
    assert grown["outcome"] == "succeeded", grown
    document = ccfd.get("/v1/slices/demo")
    await hold_their_leases(lab, document)
    await reach_each_other(lab, document)
    for speed in (speed_from, speed_towards):
        found = await steady_udp.measured(
            partial(speed, lab, document, grown["result"]), lambda mbits: mbits == AS_MUCH
        )
        assert found[-1] == AS_MUCH, (speed.__name__, found)
    gone = await portal.ask("vm.delete", vm=grown["result"]["vm"])
    assert gone["outcome"] == "succeeded", gone

    gone = await portal.ask("slice.delete", slice="demo")
    assert gone["result"] == {"slice": "demo", "deleted": True}
    assert_nothing_is_left(lab, ccfd)


async def test_an_unknown_image_on_the_second_vm_leaves_nothing(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    wanted = vms("a", "b", "c")
    wanted[1]["image"] = "nope"
    made = await portal.ask("slice.create", slice="demo", gateway=False, vms=wanted)
    assert made["outcome"] == "failed"
    assert made["error"]["code"] == "image_not_found"
    assert made["compensated"] is True
    assert_nothing_is_left(lab, ccfd)


async def test_an_image_that_vanishes_on_the_way_is_undone(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    """The image is known when the request is decided, and gone when a host needs it."""
    source = lab.layout.images / "fleeting.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(source), "16M"], check=True, timeout=20
    )
    ccfd.stop()
    ccfd.start()
    source.unlink()
    wanted = vms("a", "b", "c")
    wanted[1]["image"] = "fleeting"
    made = await portal.ask("slice.create", slice="demo", gateway=False, vms=wanted)
    assert made["outcome"] == "failed"
    assert made["error"]["code"] == "image_not_found"
    assert made["compensated"] is True
    assert_nothing_is_left(lab, ccfd)


@pytest.mark.parametrize("instant", range(5))
async def test_a_kill_in_the_middle_ends_in_all_or_nothing(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, instant: int
) -> None:
    request = await portal.publish(
        "slice.create", {"slice": "demo", "gateway": False, "vms": vms("a", "b")}
    )
    # Within what a slice takes: each of the five in a fifth of its own, so that all differ.
    await asyncio.sleep((instant + random.random()) * 0.2)
    ccfd.kill()
    ccfd.start()
    made = await portal.terminal(request)
    if made["outcome"] == "succeeded":
        document = ccfd.get("/v1/slices/demo")
        assert document["state"] == "active"
        await hold_their_leases(lab, document)
        await reach_each_other(lab, document)
        assert (await portal.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
    else:
        assert made["compensated"] is True
    assert_nothing_is_left(lab, ccfd)
    ends = [
        body
        for body in portal.heard
        if body.get("request_id") == request and body["outcome"] in ("succeeded", "failed")
    ]
    assert all(body == made for body in ends), "one terminal result, however often it is sent"


async def test_a_restart_of_ccfd_interrupts_no_tenant(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    made = await portal.ask("slice.create", slice="demo", gateway=False, vms=vms("a", "b"))
    document = made["result"]
    servers = lab.pids("node", "dnsmasq")
    assert len(servers) == 1
    assert ccfd.stop() == 0
    await hold_their_leases(lab, document)
    await reach_each_other(lab, document)
    assert lab.pids("node", "dnsmasq") == servers
    ccfd.start()
    grown = await portal.ask("vm.create", slice="demo", **vms("c")[0])
    assert grown["outcome"] == "succeeded", grown
    assert lab.pids("node", "dnsmasq") == servers, "a new lease needs no new server"
    await hold_their_leases(lab, ccfd.get("/v1/slices/demo"))
    assert (await portal.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
    assert_nothing_is_left(lab, ccfd)


def test_it_works_by_hand_without_a_broker_on_the_embedded_database(
    lab: Lab,
) -> None:
    alone = CcfdProcess(lab, {**sqlite(lab.layout.dir / "node"), "CCFD_BROKER__URL": ""})

    def ctl(*words: str) -> str:
        argv = [".venv/bin/ccfctl", "--socket", lab.env["CCF_SOCKET"], *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with alone:
        ctl("slice", "create", "demo", "--no-gateway", "--vm", "name=a,image=tiny,flavor=tiny")
        assert "active" in ctl("slice", "show", "demo")
        ctl("slice", "delete", "demo")
        assert_nothing_is_left(lab, alone)
