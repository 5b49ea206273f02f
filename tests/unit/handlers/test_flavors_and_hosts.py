"""Flavors come and go with their VMs; hosts are drained and used again."""

import asyncio
from typing import Any

from sqlalchemy import update

from ccfd.handlers.imports import import_settings
from ccfd.store import tables
from tests.harness import AMPLE, Harness
from tests.unit.handlers.test_slice_story import VM

SMALL = {"flavor": "small", "cpu": 1, "ram": 64, "disk": 1, "bandwidth": 10}


async def slices_of(harness: Harness, *names: str) -> list[str]:
    """Make slices with one VM of `small` and one of `tiny`; return the ids of the small ones."""
    ids = []
    for name in names:
        vms = [{"name": "a", "flavor": "small", "image": "tiny"}, {"name": "b", **VM}]
        made = await harness.ask("slice.create", slice=name, gateway=False, vms=vms)
        ids.append(next(vm["vm"] for vm in made["result"]["vms"] if vm["name"] == "a"))
    return ids


async def flavors(harness: Harness) -> set[str]:
    rows = await harness.database.run(
        lambda tx: tx.all(tables.flavor.select().where(~tables.flavor.c.deleted))
    )
    return {row.name for row in rows}


async def test_a_flavor_is_made_once_and_may_come_again(harness: Harness) -> None:
    async with harness.running():
        assert (await harness.ask("flavor.create", **SMALL))["result"] == SMALL
        again = await harness.ask("flavor.create", **SMALL)
        assert again["error"]["code"] == "flavor_exists"
        gone = await harness.ask("flavor.delete", flavor="small")
        assert gone["result"] == {"flavor": "small", "deleted_vms": []}
        gone = await harness.ask("flavor.delete", flavor="small")
        assert gone["error"]["code"] == "flavor_not_found"
        larger = {**SMALL, "ram": 128}
        assert (await harness.ask("flavor.create", **larger))["result"] == larger


async def test_a_vm_has_its_flavors_bandwidth_or_its_own(harness: Harness) -> None:
    own = {"cpu": 1, "ram": 64, "disk": 1}
    vms = [
        {"name": "a", "flavor": "small", "image": "tiny"},
        {"name": "b", "flavor": "small", "image": "tiny", "bandwidth": 3},
        {"name": "c", **own, "image": "tiny", "bandwidth": 5},
        {"name": "d", **own, "image": "tiny"},
    ]
    async with harness.running():
        await harness.ask("flavor.create", **SMALL)
        made = await harness.ask("slice.create", slice="demo", gateway=False, vms=vms)
        found = {vm["name"]: vm["bandwidth"] for vm in made["result"]["vms"]}
        assert found == {"a": 10, "b": 3, "c": 5, "d": None}
        # What a controller is asked its switches limit.
        await harness.ask("flavor.delete", flavor="tiny")
        await harness.ask("flavor.create", **{**SMALL, "flavor": "tiny"})
        controller = await harness.ask("controller.create", slice="demo", image_name="tiny")
        assert controller["result"]["vm"]["bandwidth"] is None


async def test_what_was_deleted_stays_deleted_at_the_next_start(harness: Harness) -> None:
    async with harness.running():
        assert (await harness.ask("flavor.delete", flavor="tiny"))["outcome"] == "succeeded"
    await harness.database.run(lambda tx: import_settings(harness.settings, tx))
    assert "tiny" not in await flavors(harness)


async def test_its_vms_go_with_it_and_no_other(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("flavor.create", **SMALL)
        ids = await slices_of(harness, "one", "two")
        planned = await harness.records.preview(
            harness.handlers["flavor.delete"],
            harness.handlers["flavor.delete"].body.model_validate({"flavor": "small"}),
        )
        assert [one["vm"] for one in planned["plan"]["vms"]] == ids
        assert planned["requests"] == [{"type": "vm.delete", "data": {"vm": vm}} for vm in ids]
        assert "small" in await flavors(harness)
        gone = await harness.ask("flavor.delete", flavor="small")
        assert gone["result"] == {"flavor": "small", "deleted_vms": ids}
        left = await harness.database.run(lambda tx: tx.all(tables.vm.select()))
        assert [vm.name for vm in left] == ["b", "b"]
        refused = await harness.ask(
            "vm.create", slice="one", name="c", flavor="small", image="tiny"
        )
        assert refused["error"]["code"] == "flavor_not_found"


async def half_deleted(harness: Harness) -> tuple[str, str]:
    """Have a deletion wait for its second VM, whose slice is busy; return its id and the VM's."""
    await harness.ask("flavor.create", **SMALL)
    first, second = await slices_of(harness, "one", "two")
    row = busy(harness, "slice:two")
    await harness.database.run(lambda tx: tx.execute(tables.request.insert().values(row)))
    asked = await harness.send("flavor.delete", flavor="small")
    await until_gone(harness, first)
    return asked, second


async def test_cancelled_between_two_vms_the_flavor_and_the_second_vm_stay(
    harness: Harness,
) -> None:
    async with harness.running():
        asked, second = await half_deleted(harness)
        await harness.interventions.cancel(asked)
        await let_go(harness)
        ended = await harness.terminal(asked)
    assert ended["error"]["code"] == "cancelled"
    assert ended["compensated"] is False, "the first VM is gone"
    assert [one["vm"] for one in ended["error"]["details"]["left"]] == [second]
    assert "small" in await flavors(harness)


async def test_a_vm_that_went_by_itself_is_no_failure(harness: Harness) -> None:
    async with harness.running():
        asked, second = await half_deleted(harness)
        mine = tables.vm.c.id == second
        await harness.database.run(lambda tx: tx.execute(tables.vm.delete().where(mine)))
        await let_go(harness)
        assert (await harness.terminal(asked))["outcome"] == "succeeded"


async def until_gone(harness: Harness, vm: str) -> None:
    """Wait until the VM's record is gone."""
    async with asyncio.timeout(AMPLE):
        while await harness.database.run(
            lambda tx: tx.one(tables.vm.select().where(tables.vm.c.id == vm))
        ):
            await asyncio.sleep(0.01)


def busy(harness: Harness, key: str) -> dict[str, Any]:
    """Make a request of a type that no daemon here knows: it holds its key."""
    return {
        "request_id": "busy",
        "type": "slice.fly",
        "key": key,
        "state": "queued",
        "unfinished": True,
        "body": {},
        "correlation_id": "busy",
        "workflow_id": "busy",
        "terminal_message_id": "busy",
        "received_at": harness.database.clock(),
    }


async def let_go(harness: Harness) -> None:
    """Have the key free again."""
    mine = tables.request.c.request_id == "busy"
    await harness.database.run(lambda tx: tx.execute(tables.request.delete().where(mine)))


async def test_a_drained_host_gets_no_vms_until_it_is_active(harness: Harness) -> None:
    async with harness.running():
        drained = await harness.ask("host.drain", host="h1")
        assert (drained["result"]["host"], drained["result"]["state"]) == ("h1", "draining")
        one = await harness.ask("slice.create", slice="one", gateway=False, vms=[{**VM}, {**VM}])
        assert {vm["host"] for vm in one["result"]["vms"]} == {"h2"}
        active = await harness.ask("host.activate", host="h1")
        assert active["result"]["state"] == "up"
        two = await harness.ask("slice.create", slice="two", gateway=False, vms=[{**VM}, {**VM}])
        assert {vm["host"] for vm in two["result"]["vms"]} == {"h1", "h2"}
        nowhere = await harness.ask("host.drain", host="h9")
        assert nowhere["error"]["code"] == "host_not_found"
    told = [body for kind, body in await harness.said() if kind == "host.state_changed"]
    assert [(one["from"], one["to"]) for one in told] == [("up", "draining"), ("draining", "up")]


async def test_draining_a_host_that_is_down_is_no_change_of_its_state(harness: Harness) -> None:
    await harness.database.run(lambda tx: tx.execute(update(tables.host).values(up=False)))
    async with harness.running():
        assert (await harness.ask("host.drain", host="h1"))["result"]["state"] == "down"
    assert not [kind for kind, _ in await harness.said() if kind == "host.state_changed"]
