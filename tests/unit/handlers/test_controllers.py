"""A slice gets a controller of its own: a VM on the control network, which its switches dial."""

from typing import Any

import pytest
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.store import tables
from tests.harness import Harness
from tests.unit.handlers.test_reconcile_story import Sweep
from tests.unit.handlers.test_slice_story import NOTHING, VM
from tests.unit.handlers.test_slice_update import OWN, make

IMAGE = {"image": "tiny"}
DIALLED = "tcp:172.16.0.101:6633"


def users(harness: Harness) -> dict[str, set[str]]:
    """Return which slices use the control network on which switch."""
    controls = harness.world.controls
    return {switch: {name for _, name in uses} for switch, uses in controls.items()}


async def of_slice(harness: Harness, name: str = "demo") -> dict[str, Any]:
    """Return the slice's row."""
    mine = select(tables.slices).where(tables.slices.c.name == name)
    row = await harness.database.run(lambda tx: tx.one(mine))
    assert row is not None
    found: dict[str, Any] = row._asdict()
    return found


async def test_a_controller_comes_and_goes_without_trace(harness: Harness) -> None:
    async with harness.running():
        await make(harness)
        before, held = harness.world.leftovers(), await harness.claims()
        made = await harness.ask("controller.create", slice="demo", image_name="tiny")
        assert made["outcome"] == "succeeded", made
        vm = made["result"]["vm"]
        assert (made["result"]["ipaddr"], made["result"]["port"]) == ("172.16.0.101", 6633)
        assert (vm["kind"], vm["state"], vm["ip"]) == ("controller", "running", "172.16.0.101")
        assert (await of_slice(harness))["controller"] == {
            "address": "172.16.0.101",
            "port": 6633,
            "vm": vm["vm"],
        }
        assert list(harness.world.targets.values()) == [DIALLED] * 3
        assert users(harness) == {"node": {"demo"}, "h1": {"demo"}, "h2": {"demo"}}
        assert len(harness.world.dhcp[1].leases) == 2, "no DHCP server answers it"
        gone = await harness.ask("controller.delete", vm=vm["vm"])
        assert gone["result"] == {"vm": vm["vm"], "deleted": True}
    assert harness.world.leftovers() == before
    assert await harness.claims() == held
    assert harness.world.targets == {}
    assert (await of_slice(harness))["controller"] is None


async def test_a_slice_may_be_created_with_one_and_takes_it_along(harness: Harness) -> None:
    async with harness.running():
        made = await make(harness, controller=IMAGE)
        (vm,) = [vm for vm in made["vms"] if vm["kind"] == "controller"]
        assert made["controller"] == {"address": vm["ip"], "port": 6633, "vm": vm["vm"]}
        assert list(harness.world.targets.values()) == [DIALLED] * 3
        gone = await harness.ask("slice.delete", slice="demo")
        assert gone["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_two_slices_share_the_network_and_part_without_harm(harness: Harness) -> None:
    async with harness.running():
        await make(harness, controller=IMAGE)
        other = await harness.ask(
            "slice.create", slice="other", gateway=False, controller=IMAGE, vms=[{**VM}]
        )
        assert other["result"]["controller"]["address"] == "172.16.0.102"
        tunnels = {host: set(harness.world.bridges[host, 0]) for host in users(harness)}
        await harness.ask("slice.delete", slice="other")
        assert set(users(harness)) == {"node", "h1", "h2"}
        assert all({"demo"} == names for names in users(harness).values())
        for host, ports in tunnels.items():
            assert {name for name in ports if name.startswith("t")} <= set(
                harness.world.bridges[host, 0]
            )
        await harness.ask("slice.delete", slice="demo")
    assert harness.world.leftovers() == {}


async def test_a_vm_on_a_new_host_brings_its_switch_to_the_controller(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, controller=IMAGE)
        first = next(iter(harness.world.domains))[0]
        other = "h2" if first == "h1" else "h1"
        assert set(users(harness)) == {"node", first}
        made = await harness.ask("vm.create", slice="demo", host=other, **VM)
        assert set(users(harness)) == {"node", first, other}
        assert harness.world.targets == {("node", 1): DIALLED, (other, 1): DIALLED}
        await harness.ask("vm.delete", vm=made["result"]["vm"])
        assert set(users(harness)) == {"node", first}


async def test_a_controller_that_cannot_be_leaves_nothing(harness: Harness) -> None:
    async with harness.running():
        await make(harness)
        before, held = harness.world.leftovers(), await harness.claims()
        for image, code in (("nope", "image_not_found"), ("tiny", "hypervisor_error")):

            async def trap(call: str, _args: Any) -> None:
                if call == "domains.boot:after":
                    raise Refused("hypervisor_error", "no more memory")

            harness.world.trap = trap
            failed = await harness.ask("controller.create", slice="demo", image_name=image)
            assert failed["error"]["code"] == code
            assert failed["compensated"] is True
    assert harness.world.leftovers() == before
    assert await harness.claims() == held
    assert harness.world.targets == {}


async def test_one_controller_a_slice(harness: Harness) -> None:
    async with harness.running():
        await make(harness, controller=OWN)
        refused = await harness.ask("controller.create", slice="demo", image_name="tiny")
        assert refused["error"]["code"] == "invalid_state"
        nobody = await harness.ask("controller.create", slice="nobody", image_name="tiny")
        assert nobody["error"]["code"] == "slice_not_found"
        elsewhere = await harness.ask(
            "controller.create", slice="demo", image_name="tiny", island="mars"
        )
        assert elsewhere["error"]["code"] == "invalid_state"
        vm = (await harness.database.run(lambda tx: tx.all(select(tables.vm))))[0]
        refused = await harness.ask("controller.delete", vm=vm.id)
        assert refused["error"]["code"] == "invalid_state"
        refused = await harness.ask("controller.delete", vm="nobody")
        assert refused["error"]["code"] == "vm_not_found"


async def test_an_update_makes_and_removes_it(harness: Harness) -> None:
    async with harness.running():
        await make(harness, controller=OWN)
        before, held = harness.world.leftovers(), await harness.claims()
        made = await harness.ask("slice.update", slice="demo", controller=IMAGE)
        assert made["outcome"] == "succeeded", made
        vm = made["result"]["controller"]["vm"]
        assert list(harness.world.targets.values()) == [DIALLED] * 3
        same = await harness.ask("slice.update", slice="demo", controller=IMAGE, description="x")
        assert same["result"]["controller"]["vm"] == vm
        assert same["result"]["description"] == "x"
        back = await harness.ask("slice.update", slice="demo", controller=OWN)
        assert back["result"]["controller"] == OWN
        assert [one["kind"] for one in back["result"]["vms"]] == ["slice", "slice"]
    assert harness.world.leftovers() == before
    assert await harness.claims() == held


async def test_a_detachment_that_a_host_refuses_keeps_the_controller(harness: Harness) -> None:
    async with harness.running():
        made = await make(harness, controller=IMAGE)

        async def trap(call: str, args: Any) -> None:
            if call == "fabric.change:before" and args.host == "h2":
                raise Refused("switch_error", "not now")

        harness.world.trap = trap
        failed = await harness.ask("slice.update", slice="demo", controller=None)
        assert failed["error"]["code"] == "switch_error"
    assert list(harness.world.targets.values()) == [DIALLED] * 3
    assert (await of_slice(harness))["controller"] == made["controller"]
    rows = await harness.database.run(lambda tx: tx.all(select(tables.vm)))
    assert {row.state for row in rows} == {"running"}


@pytest.mark.parametrize("event", ["vm.delete", "controller.delete"])
async def test_its_vm_may_be_deleted_by_either_name(harness: Harness, event: str) -> None:
    async with harness.running():
        made = await make(harness, controller=IMAGE)
        gone = await harness.ask(event, vm=made["controller"]["vm"])
        assert gone["outcome"] == "succeeded", gone
    assert (await of_slice(harness))["controller"] is None
    assert harness.world.targets == {}
    assert harness.world.controls == {}


async def test_the_sweep_puts_the_control_network_back(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        made = await make(harness, controller=IMAGE)
        (vm,) = [vm for vm in made["vms"] if vm["kind"] == "controller"]
        assert (await sweep.reconciler.plan())["repairs"] == []
        before = {host: dict(harness.world.bridges[host, 0]) for host in users(harness)}
        harness.world.addresses["node"] = ""
        harness.world.controls.pop(vm["host"])
        harness.world.bridges.pop((vm["host"], 0))
        done = await sweep.apply()
        assert {(one["kind"], one["host"]) for one in done["repairs"]} == {
            ("control", "node"),
            ("control", vm["host"]),
        }
        assert (await sweep.reconciler.plan())["repairs"] == []
    assert {host: dict(harness.world.bridges[host, 0]) for host in before} == before


async def test_the_sweep_removes_what_a_lost_slice_used(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, controller=OWN)
        harness.world.controls["h1"] = {(1, "demo"): {"192.0.2.100"}, (7, "lost"): {""}}
        harness.world.addresses["h1"] = "172.16.255.253/16"
        harness.world.bridges["h1", 0] = {}
        done = await sweep.apply()
        assert {(one["action"], one["slice"]) for one in done["repairs"]} == {
            ("remove", "demo"),
            ("remove", "lost"),
        }
    assert harness.world.controls == {}
