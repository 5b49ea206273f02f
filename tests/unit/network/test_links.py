"""Which `ip` commands open a slice's leg."""

from dataclasses import replace

import pytest

from ccfd.model.network import Namespace
from ccfd.network.links import Link, Present, Work, open_leg, read_links

WANTED = Namespace(slice="demo", vni=1001, address="10.0.0.1/26", mac="02:e9:0a:00:00:01", mtu=1450)
OUTER = Link(ifindex=5, peer=2, mtu=1450, mac="9a:00:00:00:00:01", up=True)
INNER = Link(
    ifindex=2, peer=5, mtu=1450, mac="02:e9:0a:00:00:01", up=True, addresses=("10.0.0.1/26",)
)
WHOLE = Present(namespace=True, outer=OUTER, inner=INNER, loopback=True)
ADD = (
    "link add ccf-i-1001 mtu 1450 type veth peer name inside "
    "address 02:e9:0a:00:00:01 mtu 1450 netns ccf-1001"
)
NEW = Work(
    here=(ADD, "link set ccf-i-1001 mtu 1450 up"),
    within=("address add 10.0.0.1/26 dev inside", "link set inside up"),
)


def test_a_new_leg_is_made_whole() -> None:
    assert open_leg(WANTED, Present()) == replace(NEW, within=("link set lo up", *NEW.within))


def test_a_leg_that_is_as_wanted_needs_nothing() -> None:
    assert open_leg(WANTED, WHOLE) == Work()


@pytest.mark.parametrize(
    ("present", "work"),
    [
        (replace(WHOLE, outer=replace(OUTER, up=False)), Work(here=(NEW.here[1],))),
        (
            replace(WHOLE, inner=replace(INNER, mtu=1500)),
            Work(within=("link set inside address 02:e9:0a:00:00:01 mtu 1450",)),
        ),
        (
            replace(WHOLE, inner=replace(INNER, addresses=("10.0.0.9/26",))),
            Work(within=("address delete 10.0.0.9/26 dev inside", NEW.within[0])),
        ),
        (replace(WHOLE, inner=replace(INNER, up=False)), Work(within=("link set inside up",))),
    ],
)
def test_a_leg_that_lacks_something_keeps_its_links(present: Present, work: Work) -> None:
    assert open_leg(WANTED, present) == work


def test_ends_that_do_not_belong_together_are_made_anew() -> None:
    assert open_leg(WANTED, replace(WHOLE, inner=None)) == replace(
        NEW, here=("link delete ccf-i-1001", *NEW.here)
    )
    assert open_leg(WANTED, replace(WHOLE, outer=None)) == replace(
        NEW, clear=("link delete inside",)
    )


def test_links_are_read_from_json() -> None:
    text = """[{"ifindex":2,"link_index":5,"ifname":"inside","flags":["BROADCAST","UP"],"mtu":1450,
      "address":"02:e9:0a:00:00:01","addr_info":[
        {"family":"inet","local":"10.0.0.1","prefixlen":26},
        {"family":"inet6","local":"fe80::1","prefixlen":64}]}]"""
    assert read_links(text) == {"inside": INNER}
    assert read_links("") == {}
