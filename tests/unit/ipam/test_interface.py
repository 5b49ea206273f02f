"""The calls that other Python programs know."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from ccfd.errors import Refused
from ccfd.ipam import Ipam
from ccfd.store import tables
from tests.harness import Harness


@pytest.fixture
def ipam(harness: Harness) -> Ipam:
    return Ipam(harness.database)


async def test_the_life_of_a_subnet(ipam: Ipam) -> None:
    assert await ipam.create_subnet("demo") == "10.0.0.1/26"
    assert await ipam.create_subnet("other", ipcount=8, timeout=5) == "10.0.0.65/29"
    assert await ipam.subnet_create_success("demo") is True
    assert await ipam.allocate_ip("demo") == "10.0.0.2"
    assert await ipam.allocate_ip("demo") == "10.0.0.3"
    assert await ipam.release_ip("10.0.0.2") is True
    assert await ipam.allocate_ip("demo") == "10.0.0.2"
    await refused(ipam.delete_subnet("demo"), "subnet_in_use")
    assert await ipam.release_ip("10.0.0.2")
    assert await ipam.release_ip("10.0.0.3")
    assert await ipam.delete_subnet("demo") is True
    assert await ipam.create_subnet("next") == "10.0.0.1/26"


async def test_addresses_of_controllers(ipam: Ipam) -> None:
    assert await ipam.allocate_ip_for_controller("default") == "172.16.0.101"
    assert await ipam.allocate_ip_for_controller("default") == "172.16.0.102"
    assert await ipam.release_ip_for_controller("172.16.0.101") is True
    await refused(ipam.release_ip_for_controller("172.16.0.101"), "invalid_state")
    assert await ipam.allocate_ip_for_controller("default") == "172.16.0.101"
    await refused(ipam.allocate_ip_for_controller("nowhere"), "address_exhausted")


async def test_what_it_refuses(ipam: Ipam, harness: Harness) -> None:
    await refused(ipam.create_subnet("demo", ipcount=7), "invalid_ipcount")
    await refused(ipam.create_subnet("Not a name"), "invalid_message")
    await refused(ipam.subnet_create_success("demo"), "subnet_not_found")
    await refused(ipam.delete_subnet("demo"), "subnet_not_found")
    await refused(ipam.allocate_ip("demo"), "subnet_not_found")
    await refused(ipam.release_ip("10.0.0.2"), "invalid_state")
    await refused(ipam.release_ip("ten"), "invalid_message")
    await refused(ipam.release_ip_for_controller("10.0.0.2"), "invalid_state")
    await ipam.create_subnet("demo")
    await refused(ipam.allocate_ip("demo"), "subnet_expired")
    await refused(ipam.create_subnet("demo", ipcount=8), "subnet_exists")
    past = harness.database.clock() - timedelta(seconds=1)
    await harness.database.run(lambda tx: tx.execute(update(tables.subnet).values(expires_at=past)))
    await refused(ipam.subnet_create_success("demo"), "subnet_expired")


async def test_a_vms_address_is_the_vms(ipam: Ipam, harness: Harness) -> None:
    async with harness.running():
        vm = {"name": "a", "flavor": "tiny", "image": "tiny"}
        asked = await harness.send("slice.create", slice="demo", gateway=False, vms=[vm])
        made = await harness.terminal(asked)
    await refused(ipam.release_ip(made["result"]["vms"][0]["ip"]), "invalid_state")


async def refused(call: object, code: str) -> None:
    with pytest.raises(Refused) as raised:
        await call  # type: ignore[misc]
    assert raised.value.code == code
