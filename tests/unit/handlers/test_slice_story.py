"""What becomes of a slice: created whole or not at all, deleted without trace."""

import asyncio
from datetime import timedelta

from sqlalchemy import update

from ccfd.documents import COLLECTIONS
from ccfd.errors import Refused
from ccfd.store.database import Transaction
from ccfd.store.tables import slices
from tests.harness import AMPLE, Harness

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


async def test_a_vm_for_a_reservation_without_a_slice_is_failed_and_holds_nothing(
    harness: Harness,
) -> None:
    async with harness.running():
        await harness.ask("subnet.create", owner="demo")
        made = await harness.ask("vm.create", slice="demo", **VM)
        assert made["error"]["code"] == "subnet_expired"
        async with harness.database.read() as transaction:
            document = await COLLECTIONS["vms"].one(made["error"]["details"]["vm"], transaction)
        assert document["state"] == "failed"
        assert document["slice"] == "demo"
        assert document["host"] is document["ip"] is None
        gone = await harness.ask("vm.delete", vm=document["vm"])
        assert gone["result"]["deleted"] is True
        assert (await harness.ask("subnet.delete", owner="demo"))["outcome"] == "succeeded"
        unknown = await harness.ask("vm.create", slice="nobody", **VM)
        assert unknown["error"]["code"] == "slice_not_found"
    assert await harness.claims() == NOTHING


async def test_a_failed_slice_gives_its_reservation_back_with_its_old_expiry(
    harness: Harness,
) -> None:
    async def trap(call: str, _args: object) -> None:
        if call == "domains.boot:before":
            raise Refused("hypervisor_error", "no more memory")

    harness.world.trap = trap
    async with harness.running():
        reserved = await harness.ask("subnet.create", owner="demo", ipcount=8, timeout=600)
        made = await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
        assert made["error"]["code"] == "hypervisor_error"
        async with harness.database.read() as transaction:
            document = await COLLECTIONS["subnets"].one("demo", transaction)
        assert document["state"] == "reserved"
        assert document["subnet"] == "10.0.0.1/29"
        assert document["expires_at"] == reserved["result"]["expires_at"]


async def test_a_failed_slice_leaves_the_owner_what_was_confirmed_before(harness: Harness) -> None:
    async def trap(call: str, _args: object) -> None:
        if call == "domains.boot:before":
            raise Refused("hypervisor_error", "no more memory")

    harness.world.trap = trap
    async with harness.running():
        await harness.ask("subnet.create", owner="demo", ipcount=8)
        await harness.ask("subnet.create_success", owner="demo")
        made = await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
        assert made["error"]["code"] == "hypervisor_error"
        async with harness.database.read() as transaction:
            document = await COLLECTIONS["subnets"].one("demo", transaction)
        assert (document["state"], document["subnet"]) == ("confirmed", "10.0.0.1/29")
        assert (await harness.ask("subnet.delete", owner="demo"))["outcome"] == "succeeded"
    assert await harness.claims() == NOTHING


async def test_a_slice_in_use_keeps_its_subnet(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)
        kept = await harness.ask("subnet.delete", owner="demo")
        assert kept["error"]["code"] == "subnet_in_use"
        twice = await harness.ask("slice.create", slice="demo", gateway=False)
        assert twice["error"]["code"] == "slice_exists"


async def test_a_slice_whose_time_is_over_is_announced_and_deleted(harness: Harness) -> None:
    timers = harness.timers()
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM], expires_in=60)
        await harness.database.run(timers.slices)

        async def pass_time(transaction: Transaction) -> None:
            over = transaction.now - timedelta(seconds=1)
            await transaction.execute(update(slices).values(expires_at=over))

        await harness.database.run(pass_time)
        await harness.database.run(timers.slices)
        await harness.database.run(timers.slices)
        async with asyncio.timeout(AMPLE):
            while await harness.claims() != NOTHING:
                await asyncio.sleep(0.01)
    notices = [key for key, _ in await harness.said() if key.startswith("slice.expir")]
    assert notices == ["slice.expiring", "slice.expired"]
    assert harness.world.leftovers() == {}


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


async def test_tunnels_come_with_the_first_vm_on_a_host_and_go_with_the_last(
    harness: Harness,
) -> None:
    def tunnels() -> dict[str, set[str | None]]:
        """Return whereto the slice's bridges have tunnels."""
        return {
            host: {port.remote_ip for port in ports.values() if port.kind == "vxlan"}
            for (host, _), ports in harness.world.bridges.items()
        }

    settings = harness.settings
    node = settings.network_node.tunnel_ip
    h1, h2 = (host.tunnel_ip for host in settings.host[:2])
    none: dict[str, set[str | None]] = {"node": set()}
    one: dict[str, set[str | None]] = {"node": {h1}, "h1": {node}}
    both: dict[str, set[str | None]] = {"node": {h1, h2}, "h1": {node}, "h2": {node}}
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)
        assert tunnels() == none
        made = []
        for host, expected in (("h1", one), ("h2", both), ("h2", both)):
            born = await harness.ask("vm.create", slice="demo", host=host, **VM)
            assert born["outcome"] == "succeeded", born
            made.append(born["result"]["vm"])
            assert tunnels() == expected
        for vm, expected in zip(reversed(made), (both, one, none), strict=True):
            gone = await harness.ask("vm.delete", vm=vm)
            assert gone["outcome"] == "succeeded", gone
            assert tunnels() == expected


async def test_a_host_that_could_not_boot_the_first_vm_has_no_tunnel_left(
    harness: Harness,
) -> None:
    async def trap(call: str, _args: object) -> None:
        if call == "domains.boot:after":
            raise Refused("hypervisor_error", "no more memory")

    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[{**VM, "host": "h1"}])
        before = {at: dict(ports) for at, ports in harness.world.bridges.items()}
        harness.world.trap = trap
        failed = await harness.ask("vm.create", slice="demo", host="h2", **VM)
        assert failed["error"]["code"] == "hypervisor_error"
        assert harness.world.bridges == before
