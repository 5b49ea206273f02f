"""What somebody else does to a VM is in the database, and told, by libvirt's events alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from tests.ccfd_process import CcfdProcess
from tests.host.test_slices import vms
from tests.lab import Lab
from tests.lab.shell import wait_until
from tests.portal import Portal

NO_SWEEP = {"CCFD_RECONCILE__EVERY": "0"}
WITHIN = 90.0
"""Seconds: on a loaded machine. Without load it takes some hundredths of one."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("watch") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab, NO_SWEEP) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


async def virsh(lab: Lab, *words: str) -> None:
    await asyncio.to_thread(lab.run, "h1", ["virsh", *words])


async def told(portal: Portal, count: int) -> list[tuple[str, str, str]]:
    """Wait for so many notices of changed states."""
    async with asyncio.timeout(WITHIN), portal.news:
        while True:
            found = [body for body in portal.heard if body["type"] == "vm.state_changed"]
            if len(found) >= count:
                return [(body["from"], body["to"], body["reason"]) for body in found]
            await portal.news.wait()


async def test_virsh_is_followed_at_once_and_after_libvirtd_was_killed(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    made = await portal.ask("slice.create", slice="demo", gateway=False, vms=vms("a"))
    vm = made["result"]["vms"][0]["vm"]
    expected: list[tuple[str, str, str]] = []
    took = {}
    for word, *change in (
        ("suspend", "running", "paused", "observed"),
        ("resume", "paused", "running", "observed"),
        ("destroy", "running", "shutoff", "destroyed"),
        ("start", "shutoff", "running", "observed"),
    ):
        began = time.monotonic()
        await virsh(lab, word, vm)
        expected.append((change[0], change[1], change[2]))
        assert await told(portal, len(expected)) == expected
        took[word] = round(time.monotonic() - began, 2)
        assert ccfd.get(f"/v1/vms/{vm}")["state"] == change[1]
    print("from virsh's start to the notice, in seconds:", took)

    (pid,) = lab.pids("h1", "libvirtd")
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: not lab.pids("h1", "libvirtd"), "its end")
    await asyncio.to_thread(lab.start, "h1", "libvirtd")
    answers = partial(lab.run, "h1", ["virsh", "domstate", vm])
    await asyncio.to_thread(wait_until, answers, "the new libvirtd")
    # Perhaps before ccfd hears the new libvirtd: then it looks.
    await virsh(lab, "suspend", vm)
    assert (await told(portal, 5))[4:] == [("running", "paused", "observed")]
    await virsh(lab, "destroy", vm)
    assert (await told(portal, 6))[5:] == [("paused", "shutoff", "destroyed")]

    # Its own doing it answers, and does not tell as somebody else's.
    assert (await portal.ask("vm.start", vm=vm))["result"]["state"] == "running"
    assert (await portal.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
    assert len(await told(portal, 6)) == 6
