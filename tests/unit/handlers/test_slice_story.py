"""What becomes of a slice: created whole or not at all, deleted without trace."""

from tests.harness import Harness

NOTHING = dict.fromkeys(
    ("slices", "vms", "subnets", "blocks", "addresses", "pooled", "cpu", "ram", "disk"), 0
)
VM = {"flavor": "tiny", "image": "tiny"}


async def test_a_slice_is_created_and_deleted_without_trace(harness: Harness) -> None:
    async with harness.running():
        made = await harness.ask(
            "slice.create",
            slice="demo",
            gateway=False,
            vms=[{"name": "a", **VM}, {"name": "b", **VM}],
        )
        assert made["outcome"] == "succeeded", made
        document = made["result"]
        assert document["state"] == "active"
        assert document["subnet"] == "10.0.0.1/26"
        assert document["hosts"] == ["h1", "h2"]
        assert [vm["ip"] for vm in document["vms"]] == ["10.0.0.2", "10.0.0.3"]
        assert len(harness.world.domains) == 2
        gone = await harness.ask("slice.delete", slice="demo")
        assert gone["result"] == {"slice": "demo", "deleted": True}
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_an_unknown_image_leaves_nothing(harness: Harness) -> None:
    async with harness.running():
        made = await harness.ask(
            "slice.create",
            slice="demo",
            gateway=False,
            vms=[VM, {**VM, "image": "nope"}, VM],
        )
    assert made["error"]["code"] == "image_not_found"
    assert made["compensated"] is True
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_vm_joins_and_leaves_a_slice(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[{"name": "a", **VM}])
        before = {at: set(ports) for at, ports in harness.world.bridges.items()}
        made = await harness.ask("vm.create", slice="demo", name="b", different_host=["a"], **VM)
        assert made["outcome"] == "succeeded", made
        assert made["result"]["host"] == "h2"
        assert len(harness.world.bridges) == 3
        assert len(harness.world.dhcp[1].leases) == 2
        gone = await harness.ask("vm.delete", vm=made["result"]["vm"])
        assert gone["result"]["deleted"] is True
        assert {at: set(ports) for at, ports in harness.world.bridges.items()} == before
        assert len(harness.world.dhcp[1].leases) == 1
