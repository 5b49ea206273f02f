"""A slice is changed while it lives: what is told of it, its end, and its controller."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from ccfd.errors import Refused
from ccfd.store import tables
from ccfd.store.outbox import timestamp
from tests.harness import Harness
from tests.unit.handlers.test_reconcile_story import Sweep
from tests.unit.handlers.test_slice_story import VM

OWN = {"address": "198.51.100.9", "port": 6653}
TARGET = "tcp:198.51.100.9:6653"


async def make(harness: Harness, **more: Any) -> dict[str, Any]:
    vms = [{"name": "a", "host": "h1", **VM}, {"name": "b", "host": "h2", **VM}]
    made = await harness.ask("slice.create", slice="demo", gateway=False, vms=vms, **more)
    assert made["outcome"] == "succeeded", made
    document: dict[str, Any] = made["result"]
    return document


async def test_what_is_told_of_a_slice_is_changed_at_once(harness: Harness) -> None:
    async with harness.running():
        await make(harness, description="old")
        told = update(tables.slices).values(expiry_announced=True)
        await harness.database.run(lambda tx: tx.execute(told))
        done = await harness.ask("slice.update", slice="demo", description="new", expires_in=60)
    row = await harness.database.run(lambda tx: tx.one(select(tables.slices)))
    assert row is not None
    now = harness.database.clock()
    assert done["result"]["description"] == "new"
    assert done["result"]["expires_at"] == timestamp(row.expires_at)
    assert now < row.expires_at <= now + timedelta(seconds=60)
    assert not row.expiry_announced, "the new end is announced anew"


async def test_the_sweep_tells_the_bridges_what_was_changed(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await make(harness)
        await harness.ask("slice.update", slice="demo", description="new")
        done = await sweep.apply()
        assert {one["kind"] for one in done["repairs"]} == {"bridge"}
        assert all('"description":"new"' in about for about in harness.world.abouts.values())
        assert (await sweep.reconciler.plan())["repairs"] == []


async def test_every_bridge_of_the_slice_dials_the_tenants_controller(harness: Harness) -> None:
    async with harness.running():
        made = await make(harness, controller=OWN)
        assert made["controller"] == OWN
        assert list(harness.world.targets.values()) == [TARGET] * 3
        gone = await harness.ask("slice.update", slice="demo", controller=None)
        assert gone["result"]["controller"] is None
        assert harness.world.targets == {}
        plain = {"address": "198.51.100.9"}
        back = await harness.ask("slice.update", slice="demo", controller=plain)
        assert back["result"]["controller"] == {"address": "198.51.100.9", "port": 6633}
        assert len(harness.world.targets) == 3


async def test_a_vm_on_a_new_host_finds_the_controller_there(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, controller=OWN)
        assert harness.world.targets == {("node", 1): TARGET}
        await harness.ask("vm.create", slice="demo", name="a", host="h2", **VM)
        assert harness.world.targets == {("node", 1): TARGET, ("h2", 1): TARGET}


async def test_a_host_that_refuses_leaves_the_slice_as_it_was(harness: Harness) -> None:
    async with harness.running():
        await make(harness)

        async def trap(call: str, args: Any) -> None:
            if call == "fabric.make:after" and args.host == "h2" and args.controller is not None:
                raise Refused("switch_error", "not now")

        harness.world.trap = trap
        failed = await harness.ask("slice.update", slice="demo", controller=OWN)
        assert failed["error"]["code"] == "switch_error"
        assert failed["compensated"] is True
        assert harness.world.targets == {}
    row = await harness.database.run(lambda tx: tx.one(select(tables.slices)))
    assert row is not None
    assert row.controller is None


async def test_a_bridge_that_lost_its_controller_gets_it_back(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await make(harness, controller=OWN)
        harness.world.targets.pop(("h1", 1))
        harness.world.targets["h2", 1] = "tcp:192.0.2.66:6633"
        await sweep.apply()
    assert list(harness.world.targets.values()) == [TARGET] * 3


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", "invalid_message"),
        ("127.8.0.1", "invalid_message"),
        ("0.0.0.0", "invalid_message"),
        ("0.1.2.3", "invalid_message"),
        ("169.254.169.254", "invalid_message"),
        ("224.0.0.1", "invalid_message"),
        ("255.255.255.255", "invalid_message"),
        ("::1", "invalid_message"),
        ("::", "invalid_message"),
        ("fe80::1", "invalid_message"),
        ("ff02::1", "invalid_message"),
        ("::ffff:127.0.0.1", "invalid_message"),
        ("localhost", "invalid_message"),
        ("127.1", "invalid_message"),
        ("192.0.2.1", "invalid_state"),
        ("192.0.2.100", "invalid_state"),
        ("::ffff:192.0.2.2", "invalid_state"),
        ("10.0.0.2", "invalid_state"),
        ("172.16.0.101", "invalid_state"),
        ("172.16.0.7", "invalid_state"),
    ],
)
async def test_loopback_and_our_own_addresses_are_refused(
    harness: Harness, address: str, code: str
) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)
        refused = await harness.ask("slice.update", slice="demo", controller={"address": address})
        assert refused["error"]["code"] == code
        refused = await harness.ask(
            "slice.create", slice="other", gateway=False, controller={"address": address}
        )
        assert refused["error"]["code"] == code
    assert harness.world.targets == {}


async def test_what_cannot_be_updated_is_refused(harness: Harness) -> None:
    async with harness.running():
        nobody = await harness.ask("slice.update", slice="nobody", description="x")
        assert nobody["error"]["code"] == "slice_not_found"
        await harness.ask("slice.create", slice="demo", gateway=False)
        for wrong in ({"description": None}, {"expires_in": None}, {"expires_in": 0}):
            refused = await harness.ask("slice.update", slice="demo", **wrong)
            assert refused["error"]["code"] == "invalid_message"
