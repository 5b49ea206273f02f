"""VMs on a real host through all states, and on the network again after each start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.host.test_slices import guest, hold_their_leases, reach_each_other, vms
from tests.lab import Lab
from tests.portal import Body, Portal

PATIENT = {"CCFD_HYPERVISOR__SHUTDOWN_GRACE": "60"}
"""However slow the machine is, a guest that hears has the time to end by itself."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("lifecycle") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab, PATIENT) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


async def domstate(lab: Lab, vm: str) -> str:
    argv = ["virsh", "domstate", "--reason", vm]
    return (await asyncio.to_thread(lab.run, "h1", argv)).stdout.strip()


async def boot_id(lab: Lab, vm: str) -> str:
    return await guest(lab, vm, "cat /proc/sys/kernel/random/boot_id")


async def ask(portal: Portal, kind: str, **body: Any) -> Body:
    done = await portal.ask(kind, **body)
    assert done["outcome"] == "succeeded", done
    result: Body = done["result"]
    return result


async def test_vms_stop_and_start_and_are_on_the_network_again(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    document = await ask(portal, "slice.create", slice="demo", gateway=False, vms=vms("a", "b"))
    await hold_their_leases(lab, document)
    a, b = (vm["vm"] for vm in document["vms"])

    assert (await ask(portal, "vm.suspend", vm=b))["state"] == "paused"
    assert (await domstate(lab, b)).startswith("paused")
    assert (await ask(portal, "vm.resume", vm=b))["state"] == "running"
    assert (await ask(portal, "vm.stop", vm=a))["state"] == "shutoff"
    assert await domstate(lab, a) == "shut off (shutdown)", "the guest did it by itself"
    before = await boot_id(lab, b)
    assert (await ask(portal, "vm.reboot", vm=b, force=True))["state"] == "running"

    await ask(portal, "slice.start", slice="demo")
    await hold_their_leases(lab, document)
    await reach_each_other(lab, document)
    assert await boot_id(lab, b) != before

    stopped = await ask(portal, "slice.stop", slice="demo")
    assert stopped == ccfd.get("/v1/slices/demo")
    for vm in document["vms"]:
        vm["state"] = "shutoff"
    assert stopped == {**document, "state": "stopped"}
    assert len(lab.pids("node", "dnsmasq")) == 1, "its network stays"
    await ask(portal, "slice.delete", slice="demo")
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}
