"""Networks follow the settings, and nobody loses an address by it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from ccfd.errors import Refused
from ccfd.handlers.imports import import_settings
from ccfd.ipam import Ipam, networks
from ccfd.settings import Network
from ccfd.store import tables
from tests.harness import Harness

CONTROL = Network(cidr="172.16.0.101/16", type=0)


@pytest.fixture
def ipam(harness: Harness) -> Ipam:
    return Ipam(harness.database)


async def become(harness: Harness, *wanted: Network) -> None:
    await harness.database.run(lambda tx: networks.import_all(wanted, tx))


def slices(cidr: str, **more: Any) -> Network:
    return Network(cidr=cidr, type=1, **more)


async def test_a_network_grows_at_both_ends(harness: Harness, ipam: Ipam) -> None:
    await become(harness, CONTROL, slices("10.0.4.0/25"))
    assert await ipam.create_subnet("a") == "10.0.4.1/26"
    assert await ipam.create_subnet("b") == "10.0.4.65/26"
    await become(harness, CONTROL, slices("10.0.4.0/24"))
    assert await ipam.create_subnet("c") == "10.0.4.129/26"
    await become(harness, CONTROL, slices("10.0.0.0/21"))
    got = [await ipam.create_subnet(f"d{number}") for number in range(29)]
    assert got[0] == "10.0.0.1/26"
    assert len({*got, "10.0.4.1/26", "10.0.4.65/26", "10.0.4.129/26"}) == 32
    with pytest.raises(Refused, match="room for 64"):
        await ipam.create_subnet("one-too-many")


async def test_what_would_lose_its_network_is_named(harness: Harness, ipam: Ipam) -> None:
    await become(harness, CONTROL, slices("10.0.0.0/24"))
    for owner in ("a", "b"):
        await ipam.create_subnet(owner)
    for change in (
        (CONTROL, slices("10.0.0.0/26")),
        (CONTROL, slices("10.0.0.0/24", island="other")),
        (CONTROL, slices("10.8.0.0/24")),
        (CONTROL, Network(cidr="10.0.0.0/24", type=2)),
        (CONTROL,),
    ):
        with pytest.raises(Refused, match=r"10\.0\.0\.64/26 of b") as refused:
            await become(harness, *change)
        assert refused.value.code == "subnet_in_use"
    assert await ipam.delete_subnet("b")
    await become(harness, CONTROL, slices("10.0.0.0/26"))
    with pytest.raises(Refused, match="no network of type 1"):
        await ipam.create_subnet("c")


async def test_the_same_goes_for_controllers(harness: Harness, ipam: Ipam) -> None:
    await become(harness, CONTROL)
    taken = [await ipam.allocate_ip_for_controller() for _ in range(3)]
    with pytest.raises(Refused, match=r"172\.16\.0\.101 would have none"):
        await become(harness, Network(cidr="172.16.0.102/16", type=0))
    await ipam.release_ip_for_controller(taken[0])
    await become(harness, Network(cidr="172.16.0.102/15", type=0))
    assert await ipam.allocate_ip_for_controller() == "172.16.0.104"
    await become(harness, Network(cidr="172.16.0.50/15", type=0))
    assert await ipam.allocate_ip_for_controller() == "172.16.0.50"


async def test_a_network_that_nobody_uses_goes(harness: Harness, ipam: Ipam) -> None:
    await become(harness, slices("10.0.0.0/24"))
    assert await ipam.create_subnet("a")
    assert await ipam.delete_subnet("a")
    await become(harness, slices("10.9.0.0/24", island="other"))
    assert await ipam.create_subnet("a", island="other") == "10.9.0.1/26"
    rows = await harness.database.run(lambda tx: tx.all(select(tables.network.c.cidr)))
    assert [row.cidr for row in rows] == ["10.9.0.0/24"]


async def test_what_expired_while_nobody_ran_holds_no_network(harness: Harness, ipam: Ipam) -> None:
    await ipam.create_subnet("a")
    past = harness.database.clock() - timedelta(seconds=1)
    await harness.database.run(lambda tx: tx.execute(update(tables.subnet).values(expires_at=past)))
    moved = harness.settings.model_copy(update={"network": (slices("10.9.0.0/24"),)})
    await harness.database.run(lambda tx: import_settings(moved, tx))
    assert await ipam.create_subnet("b") == "10.9.0.1/26"
