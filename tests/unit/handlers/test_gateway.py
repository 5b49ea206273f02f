"""A slice's gateway: its address outside, what it is closed to, and how it comes and goes."""

from functools import partial

from ccfd import settings
from ccfd.errors import Refused
from ccfd.handlers.gateway_layout import closed
from ccfd.ipam import networks
from ccfd.settings import Settings
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import NOTHING, VM


async def test_a_slice_has_a_gateway_unless_it_says_no(harness: Harness) -> None:
    async with harness.running():
        made = await harness.ask("slice.create", slice="demo", vms=[VM])
        assert made["result"]["gateway"] == {"inside": "10.0.0.1", "outside": "198.51.100.10"}
        vni = made["result"]["vni"]
        gateway = harness.world.gateways[vni]
        assert (gateway.inside, gateway.outside) == ("10.0.0.1/26", "198.51.100.10/24")
        assert gateway.router == "198.51.100.1"
        assert harness.world.dhcp[vni].router == "10.0.0.1"
        plain = await harness.ask("slice.create", slice="plain", gateway=False, vms=[VM])
        assert plain["result"]["gateway"] is None
        assert harness.world.dhcp[plain["result"]["vni"]].router is None
        second = await harness.ask("slice.create", slice="second")
        assert second["result"]["gateway"]["outside"] == "198.51.100.11"
        for name in ("demo", "plain", "second"):
            await harness.ask("slice.delete", slice=name)
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_slice_that_fails_gives_its_address_outside_back(harness: Harness) -> None:
    async def trap(call: str, _args: object) -> None:
        if call == "gateways.open:after":
            raise Refused("switch_error", "no way out")

    harness.world.trap = trap
    async with harness.running():
        failed = await harness.ask("slice.create", slice="demo", vms=[VM])
    assert (failed["error"]["code"], failed["compensated"]) == ("switch_error", True)
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_without_an_address_outside_there_is_no_slice(harness: Harness) -> None:
    last = settings.Network(cidr="198.51.100.254/24", type=2, gateway="198.51.100.1")
    async with harness.running():
        for outside, code in ((), "network_exhausted"), ((last,), "address_exhausted"):
            others = [one for one in harness.settings.network if one.type != 2]
            configured = (*others, *outside)
            await harness.database.run(partial(networks.import_all, configured))
            if outside:
                made = await harness.ask("slice.create", slice="first")
                assert made["result"]["gateway"]["outside"] == "198.51.100.254"
            refused = await harness.ask("slice.create", slice="demo")
            assert refused["error"]["code"] == code
        await harness.ask("slice.delete", slice="first")
    assert await harness.claims() == NOTHING


def test_it_is_closed_to_all_that_the_settings_tell_of() -> None:
    told = Settings(
        broker=settings.Broker(url="amqp://guest:guest@192.0.2.7:5672/"),
        network=(
            settings.Network(cidr="10.0.0.0/8", type=1),
            settings.Network(cidr="172.16.0.101/16", type=0),
            settings.Network(cidr="198.51.100.10/24", type=2, gateway="198.51.100.1"),
        ),
        network_node=settings.NetworkNode(tunnel_ip="192.0.2.100"),
        host=(
            settings.Host(
                name="h1",
                tunnel_ip="192.0.2.1",
                libvirt="qemu+tls://192.0.2.33/system?pkipath=/pki",
                ovsdb="ssl:192.0.2.34:6640",
            ),
            settings.Host(name="h2", tunnel_ip="192.0.2.2", libvirt="qemu+tls://h2.example/system"),
        ),
    )
    assert closed(told) == (
        "10.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/16",
        *(f"192.0.2.{octet}" for octet in (1, 2, 7, 33, 34, 100)),
    )
