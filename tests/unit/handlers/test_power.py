"""What becomes of VMs and slices that are started, stopped, rebooted, suspended and resumed."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from ccfd.documents import COLLECTIONS
from ccfd.errors import Refused, Transient
from ccfd.store import tables
from tests.harness import Harness
from tests.twins import no_trap
from tests.unit.handlers.test_slice_story import NOTHING, VM


async def two(harness: Harness) -> tuple[str, str]:
    """Make a slice with a VM on each host; return their ids."""
    made = await harness.ask(
        "slice.create", slice="demo", gateway=False, vms=[{"name": name, **VM} for name in "ab"]
    )
    one, other = made["result"]["vms"]
    return one["vm"], other["vm"]


async def states(harness: Harness) -> list[str]:
    async with harness.database.read() as transaction:
        found = await COLLECTIONS["slices"].one("demo", transaction)
    return [found["state"], *(vm["state"] for vm in found["vms"])]


def runs(harness: Harness) -> set[str]:
    return {vm for _, vm in harness.world.domains}


async def test_a_vm_goes_through_all_its_states(harness: Harness) -> None:
    async with harness.running():
        one, other = await two(harness)
        for kind, state in (
            ("vm.stop", "shutoff"),
            ("vm.stop", "shutoff"),
            ("vm.start", "running"),
            ("vm.start", "running"),
            ("vm.suspend", "paused"),
            ("vm.suspend", "paused"),
            ("vm.resume", "running"),
            ("vm.resume", "running"),
            ("vm.reboot", "running"),
            ("vm.suspend", "paused"),
            ("vm.stop", "shutoff"),
        ):
            done = await harness.ask(kind, vm=one)
            assert done["outcome"] == "succeeded", done
            assert (done["result"]["vm"], done["result"]["state"]) == (one, state)
            assert (one in runs(harness)) is (state != "shutoff")
        assert await states(harness) == ["active", "shutoff", "running"]
        assert harness.world.boots == [one, other, one, one]
        assert (await harness.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        ("vm.stop", "vm.suspend"),
        ("vm.stop", "vm.resume"),
        ("vm.stop", "vm.reboot"),
        ("vm.suspend", "vm.start"),
    ],
)
async def test_what_cannot_be_in_a_state_is_refused(
    harness: Harness, before: str, kind: str
) -> None:
    async with harness.running():
        vm, _ = await two(harness)
        await harness.ask(before, vm=vm)
        refused = await harness.ask(kind, vm=vm)
        assert refused["error"]["code"] == "invalid_state"
        assert refused["compensated"] is True


async def test_a_vm_that_is_not_there_or_has_failed_has_no_power(harness: Harness) -> None:
    async with harness.running():
        gone = await harness.ask("vm.start", vm="nobody")
        assert gone["error"]["code"] == "vm_not_found"
        await two(harness)
        failed = await harness.ask("vm.create", slice="demo", **{**VM, "image": "nope"})
        vm = failed["error"]["details"]["vm"]
        refused = await harness.ask("vm.start", vm=vm)
        assert refused["error"]["code"] == "invalid_state"


async def test_a_slice_stops_and_starts_with_its_network_in_place(harness: Harness) -> None:
    world = harness.world
    async with harness.running():
        one, other = await two(harness)
        await harness.ask("vm.suspend", vm=other)
        kept = dict(world.bridges), dict(world.dhcp), await harness.claims()
        for _ in range(2):
            stopped = await harness.ask("slice.stop", slice="demo")
            assert stopped["result"]["state"] == "stopped"
            assert {vm["state"] for vm in stopped["result"]["vms"]} == {"shutoff"}
        assert runs(harness) == set()
        assert (dict(world.bridges), dict(world.dhcp), await harness.claims()) == kept
        for kind, body in (
            ("vm.create", {"slice": "demo", **VM}),
            ("vm.start", {"vm": one}),
        ):
            refused = await harness.ask(kind, **body)
            assert refused["error"]["code"] == "invalid_state", kind
        for _ in range(2):
            started = await harness.ask("slice.start", slice="demo")
            assert started["result"]["state"] == "active"
        assert {vm["state"] for vm in started["result"]["vms"]} - {"failed"} == {"running"}
        assert runs(harness) == {one, other}
        assert (await harness.ask("slice.stop", slice="nope"))["error"]["code"] == "slice_not_found"


async def test_a_slice_of_which_one_vm_does_not_start_stays_as_it_was(harness: Harness) -> None:
    async with harness.running():
        one, other = await two(harness)
        await harness.ask("slice.stop", slice="demo")

        async def refuse(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "domains.boot:before" and args.vm == other:
                raise Refused("hypervisor_error", "no more memory")

        harness.world.trap = refuse
        failed = await harness.ask("slice.start", slice="demo")
        assert failed["error"]["code"] == "hypervisor_error"
        assert failed["compensated"] is True
        assert runs(harness) == set()
        assert set(harness.world.definitions) == {("h1", one), ("h2", other)}
        assert await states(harness) == ["stopped", "shutoff", "shutoff"]


async def test_a_reboot_that_loses_an_answer_boots_once(harness: Harness) -> None:
    harness.runner._retries = 2
    async with harness.running():
        one, _ = await two(harness)
        lost: list[str] = []

        async def lose(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call in ("domains.stop:after", "domains.boot:after") and call not in lost:
                lost.append(call)
                raise Transient("host_unreachable", "the answer was lost", retry_in=0)

        harness.world.trap = lose
        assert (await harness.ask("vm.reboot", vm=one))["outcome"] == "succeeded"
        assert len(lost) == 2
        assert harness.world.boots.count(one) == 2


async def test_a_deletion_of_the_slice_cancels_what_waits(harness: Harness) -> None:
    async with harness.running():
        one, other = await two(harness)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hold(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "domains.stop:before" and not reached.is_set():
                reached.set()
                await go_on.wait()

        harness.world.trap = hold
        running = await harness.send("vm.stop", vm=one)
        await reached.wait()
        waiting = [
            await harness.send("vm.reboot", vm=other),
            await harness.send("slice.stop", slice="demo"),
        ]
        deleted = await harness.send("slice.delete", slice="demo")
        go_on.set()
        assert (await harness.terminal(deleted))["outcome"] == "succeeded"
        assert (await harness.terminal(running))["outcome"] == "succeeded"
        for request in waiting:
            assert (await harness.terminal(request))["error"]["code"] == "cancelled"
    assert harness.world.leftovers() == {}


async def test_a_vm_that_is_being_deleted_is_left_alone(harness: Harness) -> None:
    async with harness.running():
        one, _ = await two(harness)
        going = update(tables.vm).where(tables.vm.c.id == one).values(state="deleting")
        await harness.database.run(lambda tx: tx.execute(going))
        refused = await harness.ask("vm.stop", vm=one)
        assert refused["error"]["code"] == "invalid_state"
