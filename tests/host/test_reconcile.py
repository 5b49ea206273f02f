"""What is lost on hosts comes back, what nobody claims goes, and strangers are left alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from ccfd.model import names
from ccfd.vt.metadata import URI
from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.host.test_slices import hold_their_leases, reach_each_other
from tests.lab import Lab
from tests.portal import Body, Portal

QUICK = {"CCFD_RECONCILE__EVERY": "1", "CCFD_RECONCILE__GRACE": "6"}
BRIDGE = [
    *("add-br", "ccf-4242", "--", "set", "bridge", "ccf-4242"),
    *("external_ids:ccf-slice=ghost", "external_ids:ccf-vni=4242"),
]
TO_REMOVE = "a4c1a0e2-7f0e-4f57-9a41-2f6f3c6a0b11"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("reconcile") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab, QUICK) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


@pytest.fixture(scope="module")
def demo(lab: Lab, ccfd: CcfdProcess) -> Iterator[Body]:
    """A slice with a VM on each host, for all tests."""
    two = [word for name in "ab" for word in ("--vm", f"name={name},image=tiny,flavor=tiny")]
    ctl(lab, "slice", "create", "demo", "--no-gateway", *two)
    yield ccfd.get("/v1/slices/demo")
    ctl(lab, "slice", "delete", "demo")
    assert traces.on_hosts(lab) == {}


def ctl(lab: Lab, *words: str) -> str:
    argv = [".venv/bin/ccfctl", "--socket", lab.env["CCF_SOCKET"], *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def until_repaired(portal: Portal, *kinds: tuple[str, str]) -> None:
    """Wait for a notice of each kind and host; forget what was heard."""
    missing = set(kinds)
    async with asyncio.timeout(30), portal.news:
        while True:
            for body in portal.heard:
                if body["type"] == "reconcile.repaired":
                    missing.discard((body["kind"], body["host"]))
            if not missing:
                portal.heard.clear()
                return
            await portal.news.wait()


async def settles(ccfd: CcfdProcess) -> None:
    """Wait until nothing differs."""
    end = time.monotonic() + 20
    while True:
        plan = ccfd.get("/v1/reconcile")
        if not any(plan.values()):
            return
        assert time.monotonic() < end, plan
        await asyncio.sleep(0.2)


async def test_what_is_lost_comes_back(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    refused = await portal.ask("slice.repair", slice="demo", things=[])
    assert refused["error"]["code"] == "unknown_type", "only ccfd itself asks for repairs"
    await hold_their_leases(lab, demo)
    await settles(ccfd)
    name, host = names.bridge(demo["vni"]), demo["vms"][0]["host"]
    lab.run(host, ["ovs-vsctl", "del-br", name])
    await until_repaired(portal, ("bridge", host))
    await reach_each_other(lab, demo)

    (server,) = lab.pids("node", "dnsmasq")
    os.kill(server, signal.SIGKILL)
    await until_repaired(portal, ("dhcp", "node"))

    lab.run("node", ["ip", "netns", "delete", name])
    await until_repaired(portal, ("namespace", "node"))
    assert len(lab.pids("node", "dnsmasq")) == 1, "the one in the lost namespace was ended"
    await settles(ccfd)
    vm = demo["vms"][1]
    renew = "udhcpc -n -q -t 5 -i eth0 >/dev/null 2>&1; ip -4 -o addr show eth0"
    printed = await asyncio.to_thread(lab.guest, vm["vm"], ["sh", "-c", renew])
    assert f" {vm['ip']}/" in printed
    await reach_each_other(lab, demo)


async def test_orphans_go_and_strangers_stay(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    # A sweep removes nothing of a slice that its database has never heard of.
    for kind in ("subnet.create", "subnet.delete"):
        assert (await portal.ask(kind, owner="ghost"))["outcome"] == "succeeded"
    plant_orphans(lab)
    plant_strangers(lab)
    planned = [one for one in ccfd.get("/v1/reconcile")["repairs"] if one["action"] == "remove"]
    assert {(one["kind"], one["host"]) for one in planned} == {
        ("bridge", "h2"),
        ("domain", "h1"),
        ("disk", "h1"),
    }
    await until_repaired(portal, ("bridge", "h2"), ("domain", "h1"), ("disk", "h1"))
    left = json.dumps(traces.on_hosts(lab))
    assert "ccf-4242" not in left
    assert TO_REMOVE not in left
    for host in ("h1", "h2"):
        assert "ccf-7777" in lab.run(host, ["ovs-vsctl", "list-br"]).stdout
    assert "ccf-stranger" in lab.run("h1", ["virsh", "list", "--all", "--name"]).stdout
    assert "ccf-notes.txt" in lab.run("h1", ["ls", "/var/lib/libvirt/images"]).stdout
    await reach_each_other(lab, demo)
    remove_strangers(lab)

    lab.run("h2", ["ovs-vsctl", *BRIDGE])
    assert "orphan.remove:slice:ghost" in ctl(lab, "reconcile", "--apply"), "without its grace"
    await settles(ccfd)


async def test_a_domain_lost_with_its_host_runs_again_and_one_destroyed_stays_off(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    first, second = demo["vms"]
    lab.run(first["host"], ["virsh", "undefine", names.domain(first["vm"])])
    lab.run(first["host"], ["virsh", "destroy", names.domain(first["vm"])])
    reboot(lab, second["host"])
    await until_repaired(portal, ("domain", first["host"]), ("domain", second["host"]))
    await hold_their_leases(lab, demo)
    await reach_each_other(lab, demo)

    lab.run(second["host"], ["virsh", "destroy", names.domain(second["vm"])])
    async with asyncio.timeout(20), portal.news:
        while not any(body["type"] == "vm.state_changed" for body in portal.heard):
            await portal.news.wait()
    assert ccfd.get(f"/v1/vms/{second['vm']}")["state"] == "shutoff"
    await settles(ccfd)
    await asyncio.sleep(2.5)
    state = lab.run(second["host"], ["virsh", "domstate", names.domain(second["vm"])]).stdout
    assert state.strip() == "shut off"


def reboot(lab: Lab, host: str) -> None:
    """End what a reboot ends: QEMU, libvirtd and its memory of what ran, the switch."""
    programs = ("libvirtd", "ovs-vswitchd", "qemu-system-x86")  # the kernel keeps 15 characters
    for program in programs:
        (pid,) = lab.pids(host, program)
        os.kill(pid, signal.SIGKILL)
    while any(lab.pids(host, program) for program in programs):
        time.sleep(0.05)
    lab.run(host, ["sh", "-c", "rm -rf /run/libvirt/qemu/*.xml"])
    lab.start(host, "ovs-vswitchd")
    lab.start(host, "libvirtd")


def plant_orphans(lab: Lab) -> None:
    lab.run("h2", ["ovs-vsctl", *BRIDGE])
    vm = f"<ccfd:vm xmlns:ccfd='{URI}' slice='ghost' name='a' kind='slice' mac='' digest=''/>"
    define(lab, names.domain(TO_REMOVE), TO_REMOVE, f"<metadata>{vm}</metadata>")
    (pool,) = lab.run("h1", ["virsh", "pool-list", "--name"]).stdout.split()
    lab.run("h1", ["virsh", "vol-create-as", pool, names.disk_volume(TO_REMOVE), "1M"])


def plant_strangers(lab: Lab) -> None:
    for host in ("h1", "h2"):
        lab.run(host, ["ovs-vsctl", "add-br", "ccf-7777"])
    define(lab, "ccf-stranger", str(uuid4()), "")
    lab.run("h1", ["sh", "-c", "echo mine > /var/lib/libvirt/images/ccf-notes.txt"])


def remove_strangers(lab: Lab) -> None:
    for host in ("h1", "h2"):
        lab.run(host, ["ovs-vsctl", "del-br", "ccf-7777"])
    lab.run("h1", ["virsh", "undefine", "ccf-stranger"])
    lab.run("h1", ["rm", "/var/lib/libvirt/images/ccf-notes.txt"])


def define(lab: Lab, name: str, identity: str, extra: str) -> Any:
    xml = (
        f"<domain type='qemu'><name>{name}</name><uuid>{identity}</uuid>{extra}"
        "<memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    command = f'cat > /tmp/{name}.xml <<"E"\n{xml}\nE\nvirsh define /tmp/{name}.xml'
    return lab.run("h1", ["sh", "-c", f"{command}; rm /tmp/{name}.xml"])
