"""A VM gets another size whole, or keeps its own; its host's room is claimed meanwhile."""

import asyncio
from typing import Any

import pytest

from ccfd.documents import COLLECTIONS
from ccfd.errors import Refused
from ccfd.model import names
from tests.harness import Harness
from tests.twins import no_trap
from tests.unit.handlers.test_slice_story import NOTHING

# cpu, ram, disk
SIZES = {
    "small": (1, 64, 1),
    "large": (4, 512, 1),
    "wide": (1, 32, 5),
    "huge": (1, 5000, 1),
}


async def one(harness: Harness) -> str:
    """Make a slice with one VM of `small`; return its id."""
    for name, (cpu, ram, disk) in SIZES.items():
        await harness.ask("flavor.create", flavor=name, cpu=cpu, ram=ram, disk=disk)
    vms = [{"name": "a", "host": "h1", "flavor": "small", "image": "tiny"}]
    made = await harness.ask("slice.create", slice="demo", gateway=False, vms=vms)
    vm: str = made["result"]["vms"][0]["vm"]
    return vm


async def document(harness: Harness, vm: str) -> dict[str, Any]:
    async with harness.database.read() as transaction:
        found: dict[str, Any] = await COLLECTIONS["vms"].one(vm, transaction)
    return found


async def claimed(harness: Harness) -> tuple[int, ...]:
    claims = await harness.claims()
    return claims["cpu"], claims["ram"], claims["disk"]


def there(harness: Harness, vm: str) -> tuple[int, ...]:
    """Return the size that the host has for the VM."""
    machine = harness.world.definitions["h1", vm]
    return machine.cpu, machine.ram, harness.world.sizes["h1", vm]


@pytest.mark.parametrize("state", ["running", "shutoff"])
@pytest.mark.parametrize("flavor", ["large", "wide"])
async def test_a_vm_gets_another_size(harness: Harness, flavor: str, state: str) -> None:
    async with harness.running():
        vm = await one(harness)
        if state == "shutoff":
            await harness.ask("vm.stop", vm=vm)
        boots = len(harness.world.boots)
        done = await harness.ask("vm.resize", vm=vm, flavor=flavor)
        assert done["outcome"] == "succeeded", done
        result = done["result"]
        assert (result["state"], result["flavor"]) == (state, flavor)
        assert (result["cpu"], result["ram"], result["disk"]) == SIZES[flavor]
        assert await claimed(harness) == there(harness, vm) == SIZES[flavor]
        assert len(harness.world.boots) == boots + (state == "running")
        assert ("h1", vm) in harness.world.domains or state == "shutoff"
        again = await harness.ask("vm.resize", vm=vm, flavor=flavor)
        assert again["result"] == result
        assert len(harness.world.boots) == boots + (state == "running")
        await harness.ask("slice.delete", slice="demo")
    assert await harness.claims() == NOTHING


async def test_the_larger_of_both_is_claimed_on_the_way(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)
        await harness.ask("vm.resize", vm=vm, flavor="large")
        seen: list[tuple[int, ...]] = []

        async def look(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "domains.boot:before":
                seen.append(await claimed(harness))

        harness.world.trap = look
        assert (await harness.ask("vm.resize", vm=vm, flavor="wide"))["outcome"] == "succeeded"
        assert seen == [(4, 512, 5)]
        assert await claimed(harness) == SIZES["wide"]


async def test_what_cannot_be_is_refused(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)

        async def refused(flavor: str) -> str:
            done = await harness.ask("vm.resize", vm=vm, flavor=flavor)
            assert done["compensated"] is True
            code: str = done["error"]["code"]
            return code

        assert await refused("nope") == "flavor_not_found"
        assert await refused("huge") == "no_valid_host"
        await harness.ask("vm.suspend", vm=vm)
        assert await refused("large") == "invalid_state"
        await harness.ask("vm.resume", vm=vm)
        await harness.ask("vm.snapshot_create", vm=vm, snapshot="s")
        assert await refused("large") == "invalid_state"
        await harness.ask("vm.snapshot_delete", vm=vm, snapshot="s")
        assert (await harness.ask("vm.resize", vm=vm, flavor="wide"))["outcome"] == "succeeded"
        assert await refused("small") == "invalid_state"
        assert await claimed(harness) == SIZES["wide"]
        gone = await harness.ask("vm.resize", vm="nobody", flavor="wide")
        assert gone["error"]["code"] == "vm_not_found"


def speed(harness: Harness, vm: str) -> int | None:
    """Return the bandwidth that the host's switch has for the VM."""
    return harness.world.guards["h1"][names.tap(vm)].bandwidth


@pytest.mark.parametrize("state", ["running", "shutoff"])
async def test_its_switch_has_its_new_bandwidth(harness: Harness, state: str) -> None:
    async with harness.running():
        vm = await one(harness)
        await harness.ask("flavor.create", flavor="slow", cpu=1, ram=64, disk=1, bandwidth=3)
        if state == "shutoff":
            await harness.ask("vm.stop", vm=vm)
        done = await harness.ask("vm.resize", vm=vm, flavor="slow")
        assert done["result"]["bandwidth"] == speed(harness, vm) == 3
        await refuse(harness, "domains.redefine:before")
        failed = await harness.ask("vm.resize", vm=vm, flavor="large")
        assert failed["compensated"] is True
        assert (await document(harness, vm))["bandwidth"] == speed(harness, vm) == 3
        done = await harness.ask("vm.resize", vm=vm, flavor="large")
        assert done["result"]["bandwidth"] is speed(harness, vm) is None


async def refuse(harness: Harness, call: str, times: int = 1) -> None:
    """Have a host refuse *call* so many times."""
    left = [times]

    async def trap(said: str, args: Any) -> None:
        await no_trap(said, args)
        if said == call and left[0]:
            left[0] -= 1
            raise Refused("hypervisor_error", "no more memory")

    harness.world.trap = trap


@pytest.mark.parametrize(
    "call", ["domains.stop:after", "domains.redefine:after", "domains.boot:before"]
)
async def test_one_that_fails_leaves_the_vm_running_in_its_old_size(
    harness: Harness, call: str
) -> None:
    async with harness.running():
        vm = await one(harness)
        before = await document(harness, vm)
        await refuse(harness, call)
        failed = await harness.ask("vm.resize", vm=vm, flavor="large")
        assert failed["error"]["code"] == "hypervisor_error"
        assert failed["compensated"] is True
        assert await document(harness, vm) == before
        assert ("h1", vm) in harness.world.domains
        assert await claimed(harness) == there(harness, vm) == SIZES["small"]


async def test_one_whose_disk_has_grown_goes_forward_and_can_be_sent_again(
    harness: Harness,
) -> None:
    async with harness.running():
        vm = await one(harness)
        await refuse(harness, "domains.boot:before")
        failed = await harness.ask("vm.resize", vm=vm, flavor="wide")
        assert failed["compensated"] is False
        # It may need the larger of both, and that stays claimed.
        assert await claimed(harness) == (1, 64, 5)
        found = await document(harness, vm)
        assert (found["cpu"], found["ram"], found["disk"]) == (1, 64, 5)
        done = await harness.ask("vm.resize", vm=vm, flavor="wide")
        assert done["outcome"] == "succeeded", done
        assert await claimed(harness) == there(harness, vm) == SIZES["wide"]
        assert ("h1", vm) in harness.world.domains
        await harness.ask("slice.delete", slice="demo")
    assert await harness.claims() == NOTHING


async def test_a_deletion_of_the_slice_cancels_it(harness: Harness) -> None:
    async with harness.running():
        vm = await one(harness)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hold(call: str, args: Any) -> None:
            await no_trap(call, args)
            if call == "domains.stop:after" and not reached.is_set():
                reached.set()
                await go_on.wait()

        harness.world.trap = hold
        resized = await harness.send("vm.resize", vm=vm, flavor="large")
        await reached.wait()
        deleted = await harness.send("slice.delete", slice="demo")
        go_on.set()
        assert (await harness.terminal(resized))["error"]["code"] == "cancelled"
        assert (await harness.terminal(deleted))["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING
