"""What a slice's gateway is: its firewall, its leg outside, and how it is recognised."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from ccfd.model.network import Gateway
from ccfd.network.gateway_plan import Present, WayOut, mark, open_leg, read_present, ruleset
from ccfd.network.links import Link, Work

WANTED = Gateway(
    slice="demo",
    vni=1001,
    inside="10.0.0.1/26",
    outside="203.0.113.10/24",
    mac="02:e9:cb:00:71:0a",
    router="203.0.113.254",
    closed=("10.0.0.0/8", "192.0.2.1"),
)
SWITCH = WayOut(name="br-ext", kind="switch", ifindex=9, mtu=1500)
BRIDGE = replace(SWITCH, kind="bridge")
DEVICE = WayOut(name="eth1", kind="device", ifindex=4, mtu=1500)
OUTER = Link(ifindex=5, peer=2, mtu=1500, mac="9a:00:00:00:00:01", up=True, master="br-ext")
INNER = Link(ifindex=2, peer=5, mtu=1500, mac=WANTED.mac, up=True, addresses=("203.0.113.10/24",))
WHOLE = Present(inner=INNER, routers=("203.0.113.254",), forwards=True)
ADD = (
    "link add ccf-o-1001 mtu 1500 type veth peer name outside "
    "address 02:e9:cb:00:71:0a mtu 1500 netns ccf-1001"
)
UP = "link set ccf-o-1001 mtu 1500 up"
INNER_END = ("address add 203.0.113.10/24 dev outside", "link set outside up")
ROUTE = "route replace default via 203.0.113.254 dev outside"
MACVLAN = (
    "link add link eth1 name outside address 02:e9:cb:00:71:0a "
    "mtu 1500 netns ccf-1001 type macvlan mode bridge"
)


def test_the_firewall_is_one_table_that_is_replaced() -> None:
    text = ruleset(WANTED)
    assert text.startswith("table inet ccf-gateway\ndelete table inet ccf-gateway\n")
    assert text.count("policy drop") == 2
    assert "elements = { 10.0.0.0/8, 192.0.2.1 }" in text
    assert 'oifname "outside" ip saddr 10.0.0.0/26 snat ip to 203.0.113.10\n' in text


def test_what_is_closed_is_so_for_open_connections_too() -> None:
    lines = ruleset(WANTED).splitlines()
    forwarded = lines[lines.index("\tchain forwarded {") :]
    closed = next(n for n, line in enumerate(forwarded) if "@closed" in line)
    assert closed < next(n for n, line in enumerate(forwarded) if "established" in line)


def test_a_firewall_that_closes_nothing_has_an_empty_set() -> None:
    assert "elements" not in ruleset(replace(WANTED, closed=()))


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_can_read_it() -> None:
    for wanted in (WANTED, replace(WANTED, closed=())):
        checked = subprocess.run(
            ["nft", "--check", "-f", "-"],
            input=ruleset(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
        if "Operation not permitted" in checked.stderr:
            pytest.skip("nft wants the rights of root")
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("way", "outer", "present", "work"),
    [
        (SWITCH, None, Present(), Work(here=(ADD, UP), within=(*INNER_END, ROUTE))),
        (SWITCH, OUTER, WHOLE, Work()),
        (SWITCH, OUTER, replace(WHOLE, routers=()), Work(within=(ROUTE,))),
        (
            BRIDGE,
            None,
            Present(),
            Work(here=(ADD, UP, "link set ccf-o-1001 master br-ext"), within=(*INNER_END, ROUTE)),
        ),
        (BRIDGE, OUTER, WHOLE, Work()),
        (
            BRIDGE,
            replace(OUTER, master=None),
            WHOLE,
            Work(here=("link set ccf-o-1001 master br-ext",)),
        ),
        (DEVICE, None, Present(), Work(here=(MACVLAN,), within=(*INNER_END, ROUTE))),
        (DEVICE, None, replace(WHOLE, inner=replace(INNER, peer=4)), Work()),
        (
            DEVICE,
            OUTER,
            WHOLE,
            Work(here=("link delete ccf-o-1001", MACVLAN), within=(*INNER_END, ROUTE)),
        ),
        (
            SWITCH,
            None,
            replace(WHOLE, inner=replace(INNER, peer=4)),
            Work(clear=("link delete outside",), here=(ADD, UP), within=(*INNER_END, ROUTE)),
        ),
    ],
)
def test_the_leg_is_completed(
    way: WayOut, outer: Link | None, present: Present, work: Work
) -> None:
    done = open_leg(WANTED, way, outer, present)
    # A route that stands is named again where its link was touched: it costs nothing.
    assert replace(done, within=tuple(dict.fromkeys(done.within))) in (
        work,
        replace(work, within=(*work.within, ROUTE)),
    )


def test_without_a_router_there_is_no_default_route() -> None:
    alone = replace(WANTED, router=None)
    assert open_leg(alone, SWITCH, OUTER, WHOLE) == Work(within=("route delete default",))
    assert open_leg(alone, SWITCH, OUTER, replace(WHOLE, routers=())) == Work()


def test_what_stands_is_read_from_three_documents() -> None:
    link = {
        "ifindex": 2,
        "ifname": "outside",
        "link_index": 5,
        "mtu": 1500,
        "address": WANTED.mac,
        "flags": ["UP"],
        "addr_info": [{"family": "inet", "local": "203.0.113.10", "prefixlen": 24}],
    }
    routes = [{"dst": "default", "gateway": "203.0.113.254", "dev": "outside"}]
    forwards = [{"family": "inet", "interface": "all", "forwarding": True}]
    documents = [[link], routes, forwards]
    assert read_present("\n".join(map(json.dumps, documents)) + "\n") == WHOLE
    assert read_present("[]\n[]\n[]\n") == Present()


def test_each_gateway_has_its_own_mark() -> None:
    others = (
        replace(WANTED, outside="203.0.113.11/24"),
        replace(WANTED, router=None),
        replace(WANTED, closed=()),
    )
    assert len({mark(WANTED), *map(mark, others)}) == 4
