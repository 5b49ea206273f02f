"""Snapshots are taken, gone back to, deleted; and go with their VM."""

from typing import Any

import pytest

from ccfd.errors import Refused, Transient
from tests.harness import Harness
from tests.twins import no_trap
from tests.unit.handlers.test_slice_story import NOTHING, VM


async def one(harness: Harness) -> str:
    made = await harness.ask(
        "slice.create", slice="demo", gateway=False, vms=[{"name": "a", "host": "h1", **VM}]
    )
    vm: str = made["result"]["vms"][0]["vm"]
    return vm


async def done(harness: Harness, kind: str, **body: Any) -> dict[str, Any]:
    ended = await harness.ask(kind, **body)
    assert ended["outcome"] == "succeeded", ended
    result: dict[str, Any] = ended["result"]
    return result


async def test_snapshots_come_and_go(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)
        assert (await done(harness, "vm.snapshot_create", vm=vm, snapshot="b"))["snapshots"] == [
            "b"
        ]
        await done(harness, "vm.stop", vm=vm)
        made = await done(harness, "vm.snapshot_create", vm=vm, snapshot="a")
        assert (made["snapshots"], made["state"]) == (["b", "a"], "shutoff")
        twice = await harness.ask("vm.snapshot_create", vm=vm, snapshot="a")
        assert twice["error"]["code"] == "invalid_state"
        left = await done(harness, "vm.snapshot_delete", vm=vm, snapshot="b")
        assert left["snapshots"] == ["a"]
        for kind in ("vm.snapshot_delete", "vm.snapshot_revert"):
            gone = await harness.ask(kind, vm=vm, snapshot="b")
            assert gone["error"]["code"] == "invalid_state"
        assert list(harness.world.snapshots["h1", vm]) == ["a"]
        await done(harness, "vm.delete", vm=vm)
        assert harness.world.snapshots == {}
        await done(harness, "slice.delete", slice="demo")
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


@pytest.mark.parametrize("now", ["vm.start", "vm.stop", "vm.suspend"])
@pytest.mark.parametrize(
    ("then", "state"), [(None, "running"), ("vm.suspend", "paused"), ("vm.stop", "shutoff")]
)
async def test_a_vm_is_again_as_it_was(
    harness: Harness, then: str | None, state: str, now: str
) -> None:
    async with harness.running():
        vm = await one(harness)
        if then:
            await done(harness, then, vm=vm)
        await done(harness, "vm.snapshot_create", vm=vm, snapshot="s")
        await done(harness, "vm.reboot", vm=vm) if state == "running" else None
        if state == "paused":
            await done(harness, "vm.resume", vm=vm)
        elif state == "shutoff":
            await done(harness, "vm.start", vm=vm)
        await done(harness, now, vm=vm)
        reverted = await done(harness, "vm.snapshot_revert", vm=vm, snapshot="s")
        assert reverted["state"] == state
        assert (("h1", vm) in harness.world.domains) is (state != "shutoff")
        assert (("h1", vm) in harness.world.paused) is (state == "paused")
        assert reverted["snapshots"] == ["s"]


async def test_a_way_back_whose_answer_is_lost_is_gone_once(harness: Harness) -> None:
    harness.runner._retries = 1
    async with harness.running():
        vm = await one(harness)
        await done(harness, "vm.snapshot_create", vm=vm, snapshot="s")
        lost: list[str] = []

        async def lose(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "snapshots.revert:after" and not lost:
                lost.append(call)
                raise Transient("host_unreachable", "the answer was lost", retry_in=0)

        harness.world.trap = lose
        await done(harness, "vm.snapshot_revert", vm=vm, snapshot="s")
        assert lost
        assert harness.world.boots == [vm, vm]


async def test_a_snapshot_that_fails_leaves_none(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)
        theirs = ("theirs", "running")
        harness.world.snapshots["h1", vm] = {"taken": theirs}

        async def refuse(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "snapshots.take:after":
                raise Refused("hypervisor_error", "the disk is full")

        harness.world.trap = refuse
        for name in ("mine", "taken"):
            failed = await harness.ask("vm.snapshot_create", vm=vm, snapshot=name)
            assert failed["compensated"] is True
        assert harness.world.snapshots["h1", vm] == {"taken": theirs}


async def test_no_vm_comes_to_run_in_a_stopped_slice(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)
        await done(harness, "vm.snapshot_create", vm=vm, snapshot="s")
        await done(harness, "slice.stop", slice="demo")
        refused = await harness.ask("vm.snapshot_revert", vm=vm, snapshot="s")
        assert refused["error"]["code"] == "invalid_state"
        await done(harness, "vm.snapshot_delete", vm=vm, snapshot="s")
