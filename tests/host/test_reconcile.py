"""What is lost on hosts comes back, what nobody claims goes, and strangers are left alone.

First with the default settings, whose sweeps are a quarter of a minute apart: what comes back
sooner does so because ccfd hears of the loss. Each time is printed (`pytest -rP`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from ccfd.model import names
from ccfd.vt.metadata import URI
from tests import traces
from tests.busy import short_of_processors
from tests.ccfd_process import CcfdProcess
from tests.host.test_slices import guest, hold_their_leases, reach_each_other
from tests.lab import Lab
from tests.lab.layout import OUTSIDE_ADDRESS
from tests.lab.shell import wait_until
from tests.portal import Body, Portal

WHOLE_WITHIN = 30.0
"""Seconds that the fabric may take after a disaster, on a machine that has time for it."""
PATIENCE = 90.0
"""Seconds for what takes two or three, on a machine that stands still for several at a time."""
QUICK = {"CCFD_RECONCILE__EVERY": "1", "CCFD_RECONCILE__GRACE": "15"}
"""Orphans have the time to be planted and planned, all of them, on a busy machine too."""
BRIDGE = [
    *("add-br", "ccf-4242", "--", "set", "bridge", "ccf-4242"),
    *("external_ids:ccf-slice=ghost", "external_ids:ccf-vni=4242"),
]
TO_REMOVE = "a4c1a0e2-7f0e-4f57-9a41-2f6f3c6a0b11"
TALK = (
    "(i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done)"
    " | (nc {} 7; echo broken off) > /run/echoed"
)
"""Has the peer's echo server repeat numbers, over one connection for as long as it holds."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("reconcile") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def patient(lab: Lab) -> Iterator[CcfdProcess]:
    """ccfd as it is by default."""
    with CcfdProcess(lab) as process:
        yield process


@pytest.fixture(scope="module")
def demo(lab: Lab, patient: CcfdProcess) -> Iterator[Body]:
    """A slice with two VMs on one host and one on the other, for all tests."""
    three = [
        word
        for name, host in (("a", "h1"), ("b", "h1"), ("c", "h2"))
        for word in ("--vm", f"name={name},image=tiny,flavor=tiny,host={host}")
    ]
    ctl(lab, "slice", "create", "demo", *three)
    yield patient.get("/v1/slices/demo")
    ctl(lab, "slice", "delete", "demo")
    assert traces.on_hosts(lab) == {}


@pytest.fixture(scope="module")
def ccfd(lab: Lab, patient: CcfdProcess, demo: Body) -> Iterator[CcfdProcess]:
    """ccfd that sweeps all the time, in place of the other."""
    assert patient.stop() == 0
    with CcfdProcess(lab, QUICK) as process:
        yield process
    patient.start()


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


def ctl(lab: Lab, *words: str) -> str:
    argv = [".venv/bin/ccfctl", "--socket", lab.env["CCF_SOCKET"], *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def until_repaired(portal: Portal, *kinds: tuple[str, str]) -> None:
    """Wait for a notice of each kind and host; forget what was heard."""
    missing = set(kinds)
    async with asyncio.timeout(PATIENCE), portal.news:
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
    end = time.monotonic() + PATIENCE
    while True:
        plan = ccfd.get("/v1/reconcile")
        if not any(plan.values()):
            return
        assert time.monotonic() < end, plan
        await asyncio.sleep(0.2)


async def works(lab: Lab, slice_: Body) -> None:
    """See by real packets that VMs reach each other, the outside and their DHCP server."""
    vms = slice_["vms"]
    asked = " ".join([*(vm["ip"] for vm in vms), OUTSIDE_ADDRESS])
    line = (
        f"for one in {asked}; do timeout 3 wget -qO- http://$one/ || exit; done;"
        " udhcpc -n -q -t 2 -T 1 -i eth0 -s /bin/true >/dev/null 2>&1"
    )
    answers = await asyncio.gather(*(guest(lab, vm["vm"], line) for vm in vms))
    for said in answers:
        assert said.split() == [*(vm["name"] for vm in vms), "outside"]


async def passes(lab: Lab, vm: Body) -> int:
    """Return the last number that came back by the connection of `TALK`, which is the first one."""
    said = await guest(lab, vm["vm"], "grep . /run/echoed")
    numbers = [int(word) for word in said.split("\n")[:-1]]
    assert numbers == list(range(len(numbers))), "nothing was lost"
    return numbers[-1]


async def test_a_connection_of_two_vms_survives_every_restart_of_ccfd(
    lab: Lab, patient: CcfdProcess, demo: Body
) -> None:
    a, b, _ = demo["vms"]
    await hold_their_leases(lab, demo)
    await works(lab, demo)
    shown = json.loads(ctl(lab, "--json", "slice", "show", "demo"))
    assert [one["ip"] for one in shown["leases"]] == [vm["ip"] for vm in demo["vms"]]
    await guest(lab, a["vm"], f"setsid sh -c '{TALK.format(b['ip'])}' >/dev/null 2>&1 &")
    await passes(lab, a)
    servers = lab.pids("node", "dnsmasq")
    for end in (patient.stop, patient.kill):
        end()
        before = await passes(lab, a)
        patient.start()
        await settles(patient)
        assert await passes(lab, a) > before
    assert lab.pids("node", "dnsmasq") == servers


def restart_switch(lab: Lab, place: str) -> None:
    """Restart Open vSwitch as its package does: both daemons, the database is kept."""
    for program in ("ovs-vswitchd", "ovsdb-server"):
        kill(lab, place, program)
    for program in ("ovsdb-server", "ovs-vswitchd"):
        lab.start(place, program)


def kill(lab: Lab, place: str, *programs: str) -> None:
    for program in programs:
        for pid in lab.pids(place, program):
            os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not any(lab.pids(place, program) for program in programs),
        f"the end of {', '.join(programs)} at {place}",
    )


def delete_namespaces(lab: Lab) -> None:
    found = lab.run("node", ["ip", "netns", "list"]).stdout.splitlines()
    for line in found:
        lab.run("node", ["ip", "netns", "delete", line.split()[0]])


def reboot(lab: Lab, host: str) -> None:
    """End what a reboot ends: VMs, libvirtd and its memory of what ran, the switch."""
    # The kernel keeps 15 characters of a name.
    kill(lab, host, "libvirtd", "qemu-system-x86", "ovs-vswitchd", "ovsdb-server")
    lab.run(host, ["sh", "-c", "rm -rf /run/libvirt/qemu/*.xml"])
    for program in ("ovsdb-server", "ovs-vswitchd", "libvirtd"):
        lab.start(host, program)


DISASTERS: dict[str, Callable[[Lab], None]] = {
    "Open vSwitch restarted on a host": lambda lab: restart_switch(lab, "h1"),
    "Open vSwitch restarted on the network node": lambda lab: restart_switch(lab, "node"),
    "DHCP server killed": lambda lab: kill(lab, "node", "dnsmasq"),
    "namespaces deleted by hand": delete_namespaces,
    "host rebooted": lambda lab: reboot(lab, "h2"),
}


async def is_whole(lab: Lab, ccfd: CcfdProcess, servers: int) -> bool:
    """Tell whether nothing differs, every server runs, and all that ccfd asked for has ended."""
    plan = await asyncio.to_thread(ccfd.get, "/v1/reconcile")
    busy = await asyncio.to_thread(ccfd.get, "/v1/workflows?state=running")
    served = len(lab.pids("node", "dnsmasq")) == servers
    return served and not any(plan.values()) and not busy["items"]


@pytest.mark.parametrize("disaster", DISASTERS)
async def test_the_fabric_is_whole_again_after(
    disaster: str, lab: Lab, patient: CcfdProcess, demo: Body
) -> None:
    await settles(patient)
    DISASTERS[disaster](lab)
    began, short = time.monotonic(), short_of_processors()
    while not await is_whole(lab, patient, servers=1):
        assert time.monotonic() < began + 2 * PATIENCE, patient.tail()
        await asyncio.sleep(0.1)
    whole, short = time.monotonic() - began, short_of_processors() - short
    await works(lab, demo)
    print(
        f"{disaster}: whole after {whole:.1f} s ({short:.1f} s of them short of processors),"
        f" packets after {time.monotonic() - began:.1f} s"
    )
    assert whole - short < WHOLE_WITHIN, patient.tail()


async def test_what_is_taken_away_by_hand_comes_back(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    refused = await portal.ask("slice.repair", slice="demo", things=[])
    assert refused["error"]["code"] == "unknown_type", "only ccfd itself asks for repairs"
    await settles(ccfd)
    name, host = names.bridge(demo["vni"]), demo["vms"][0]["host"]
    lab.run(host, ["ovs-vsctl", "del-br", name])
    await until_repaired(portal, ("bridge", host))
    await reach_each_other(lab, demo)


async def test_orphans_go_and_strangers_stay(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    # A sweep removes nothing of a slice that its database has never heard of.
    for kind in ("subnet.create", "subnet.delete"):
        assert (await portal.ask(kind, owner="ghost"))["outcome"] == "succeeded"
    plant_strangers(lab)
    plant_orphans(lab)
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


async def test_a_domain_that_is_lost_runs_again_and_one_destroyed_stays_off(
    lab: Lab, ccfd: CcfdProcess, portal: Portal, demo: Body
) -> None:
    first, second = demo["vms"][0], demo["vms"][2]
    # By one virsh: a sweep in between would define it again, and then see a person stop it.
    lost = names.domain(first["vm"])
    lab.run(first["host"], ["virsh", f"undefine {lost}; destroy {lost}"])
    await until_repaired(portal, ("domain", first["host"]))
    await reach_each_other(lab, demo)

    lab.run(second["host"], ["virsh", "destroy", names.domain(second["vm"])])
    async with asyncio.timeout(PATIENCE), portal.news:
        # Of this VM: what happened to the first may still be told.
        while not any(
            body["type"] == "vm.state_changed"
            and (body["vm"], body["to"]) == (second["vm"], "shutoff")
            for body in portal.heard
        ):
            await portal.news.wait()
    assert ccfd.get(f"/v1/vms/{second['vm']}")["state"] == "shutoff"
    await settles(ccfd)
    await asyncio.sleep(2.5)
    state = lab.run(second["host"], ["virsh", "domstate", names.domain(second["vm"])]).stdout
    assert state.strip() == "shut off"


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
