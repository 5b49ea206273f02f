"""Who has which address on the control network."""

import pytest

from ccfd.errors import Refused
from ccfd.handlers.imports import import_settings
from ccfd.ipam import Ipam, control
from ccfd.settings import Host, Network, Settings
from tests.harness import Harness


def site(*networks: Network, hosts: int = 2) -> Settings:
    return Settings(
        network=networks,
        host=(
            *(Host(name=f"h{n}", tunnel_ip=f"192.0.2.{n}") for n in range(1, hosts + 1)),
            Host(name="far", tunnel_ip="192.0.2.99", island="mars"),
        ),
    )


CONTROL = Network(cidr="172.16.0.101/16", type=0)


def test_switches_have_the_last_addresses_in_the_order_of_the_settings() -> None:
    settings = site(Network(cidr="172.30.0.1/24", type=0), CONTROL)
    assert control.switch_address(settings, "node") == "172.16.255.254/16"
    assert control.switch_address(settings, "h1") == "172.16.255.253/16"
    assert control.switch_address(settings, "h2") == "172.16.255.252/16"
    assert control.kept(settings) == {"172.16.0.101/16": 3}


def test_a_host_of_another_island_has_none() -> None:
    with pytest.raises(Refused, match="island default"):
        control.switch_address(site(CONTROL), "far")


def test_without_a_control_network_nobody_has_one() -> None:
    assert control.kept(site()) == {}
    with pytest.raises(Refused, match="of type 0"):
        control.switch_address(site(), "node")


def test_a_network_that_is_too_small_for_the_switches_says_so() -> None:
    settings = site(Network(cidr="172.16.0.1/29", type=0), hosts=9)
    assert control.switch_address(settings, "node") == "172.16.0.6/29"
    with pytest.raises(Refused, match="make it larger"):
        control.switch_address(settings, "h9")


async def test_what_switches_have_is_given_to_no_controller(harness: Harness) -> None:
    settings = harness.settings.model_copy(
        update={"network": (Network(cidr="172.16.0.1/29", type=0),)}
    )
    await harness.database.run(lambda tx: import_settings(settings, tx))
    ipam = Ipam(harness.database)
    got = [await ipam.allocate_ip_for_controller() for _ in range(3)]
    assert got == ["172.16.0.1", "172.16.0.2", "172.16.0.3"]
    assert control.switch_address(settings, "h2") == "172.16.0.4/29"
    with pytest.raises(Refused, match="has one left"):
        await ipam.allocate_ip_for_controller()


async def test_an_address_is_taken_once_and_can_be_given_back(harness: Harness) -> None:
    run = harness.database.run
    assert await run(lambda tx: control.take("a", "default", tx)) == "172.16.0.101"
    await run(lambda tx: control.claim("172.16.0.103", "b", tx))
    with pytest.raises(Refused, match="is b's"):
        await run(lambda tx: control.claim("172.16.0.103", "c", tx))
    with pytest.raises(Refused, match="not in the control network"):
        await run(lambda tx: control.claim("172.16.255.254", "c", tx))
    with pytest.raises(Refused, match="serves island default"):
        await run(lambda tx: control.take("c", "mars", tx))
    got = [await run(lambda tx: control.take("c", "default", tx)) for _ in range(2)]
    assert got == ["172.16.0.102", "172.16.0.104"]
    assert await run(lambda tx: control.give_back("172.16.0.103", tx))
    assert not await run(lambda tx: control.give_back("172.16.0.103", tx))
    assert not await run(lambda tx: control.give_back("10.0.0.1", tx))
