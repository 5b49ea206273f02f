"""A real VM goes back to what it was, and gets another size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from ccfd.model import names
from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.host.test_lifecycle import ask, boot_id
from tests.host.test_slices import guest, hold_their_leases, vms
from tests.lab import Lab
from tests.portal import Portal

TO_THE_GATEWAY = "ping -c 1 -W 2 10.0.0.1"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("snapshots") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


def of_libvirt(lab: Lab, vm: str) -> list[str]:
    return lab.run("h1", ["virsh", "snapshot-list", vm, "--name"]).stdout.split()


def of_disk(lab: Lab, vm: str) -> str:
    disk = f"/var/lib/libvirt/images/{names.disk_volume(vm)}"
    return lab.run("h1", ["qemu-img", "snapshot", "-l", disk]).stdout


async def test_a_vm_goes_back_and_gets_another_size(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    await ask(portal, "flavor.create", flavor="wide", cpu=1, ram=160, disk=2)
    await ask(portal, "flavor.create", flavor="many", cpu=2, ram=128, disk=2)
    document = await ask(portal, "slice.create", slice="demo", gateway=False, vms=vms("a"))
    await hold_their_leases(lab, document)
    vm = document["vms"][0]["vm"]
    run = await boot_id(lab, vm)
    await guest(lab, vm, "echo one > /root/file; sync; echo kept > /run/memory")

    taken = await ask(portal, "vm.snapshot_create", vm=vm, snapshot="s1")
    assert (taken["snapshots"], taken["state"]) == (["s1"], "running")
    await guest(lab, vm, "echo two > /root/file; sync; rm /run/memory")
    back = await ask(portal, "vm.snapshot_revert", vm=vm, snapshot="s1")
    assert (back["snapshots"], back["state"]) == (["s1"], "running")
    assert (await guest(lab, vm, "cat /root/file /run/memory")).split() == ["one", "kept"]
    assert await boot_id(lab, vm) == run
    await guest(lab, vm, TO_THE_GATEWAY)

    await ask(portal, "vm.stop", vm=vm, force=True)
    both = await ask(portal, "vm.snapshot_create", vm=vm, snapshot="s2")
    assert both == ccfd.get(f"/v1/vms/{vm}")
    assert (both["snapshots"], both["state"]) == (["s1", "s2"], "shutoff")
    assert of_libvirt(lab, vm) == ["s1", "s2"]
    refused = await portal.ask("vm.resize", vm=vm, flavor="wide")
    assert refused["error"]["code"] == "invalid_state"
    assert (await ask(portal, "vm.snapshot_revert", vm=vm, snapshot="s1"))["state"] == "running"
    assert await boot_id(lab, vm) == run
    await guest(lab, vm, TO_THE_GATEWAY)
    assert (await ask(portal, "vm.snapshot_revert", vm=vm, snapshot="s2"))["state"] == "shutoff"
    for name in ("s1", "s2"):
        left = await ask(portal, "vm.snapshot_delete", vm=vm, snapshot=name)
    assert left["snapshots"] == of_libvirt(lab, vm) == []
    assert of_disk(lab, vm) == ""

    assert (await ask(portal, "vm.resize", vm=vm, flavor="wide"))["state"] == "shutoff"
    assert (await ask(portal, "vm.start", vm=vm))["state"] == "running"
    await guest(lab, vm, f"test $(cat /sys/class/block/vda/size) = {2 << 21}")
    megabytes = await guest(lab, vm, "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")
    assert 110 < int(megabytes) < 160

    resized = await ask(portal, "vm.resize", vm=vm, flavor="many")
    assert (resized["state"], resized["cpu"], resized["ram"]) == ("running", 2, 128)
    await hold_their_leases(lab, ccfd.get("/v1/slices/demo"))
    await guest(lab, vm, f"test $(nproc) = 2 && {TO_THE_GATEWAY}")
    host = ccfd.get("/v1/hosts/h1")
    assert [host[size]["used"] for size in ("cpu", "ram", "disk")] == [2, 128, 2]

    await ask(portal, "vm.snapshot_create", vm=vm, snapshot="with-it")
    await ask(portal, "slice.delete", slice="demo")
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}
    kept = lab.layout.home("h1") / "lib-libvirt" / "qemu" / "snapshot"
    assert not list(kept.rglob("*.xml"))
