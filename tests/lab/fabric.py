"""What joins the places: underlay, management network, and the way to the outside?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import namespaces
from tests.lab.layout import FABRIC, NODE, OUTSIDE, OUTSIDE_ADDRESS, SERVICES, UNDERLAY_MTU, Layout
from tests.lab.shell import LabError, run


@contextmanager
def free_subnet(wish: int) -> Iterator[int]:
    """Claim an S for which 172.30.S.0/24 is unused, the wished one if it is.

    The claim is held by an abstract UNIX socket until the caller has an address in the subnet:
    two labs that start together cannot choose the same, and a killed one claims nothing.
    """
    routes = run(["ip", "-4", "route", "show", "table", "all"])
    addresses = run(["ip", "-4", "-oneline", "address"])
    for step in range(254):
        number = 1 + (wish + step) % 254
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0ccfd-lab-172.30.{number}")
            except OSError:
                continue
            if f"172.30.{number}." not in routes + addresses:
                yield number
                return
    raise LabError("every 172.30.S.0/24 is in use on this machine")


def reach_root(layout: Layout) -> None:
    """Join the machine to the management network by its one link; this takes the subnet."""
    net = layout.namespace(FABRIC, "net")
    link = layout.root_link
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "root", "netns", str(net)])
    run(["ip", "address", "add", f"{layout.root_management}/24", "dev", link])
    run(["ip", "link", "set", link, "up"])


def build(layout: Layout) -> None:
    """Make the networks' bridges and plug every place in."""
    mtu = UNDERLAY_MTU
    commands = [
        f"link add und mtu {mtu} type bridge",
        "link add mgt type bridge",
        "link set und up",
        "link set mgt up",
        "link set root master mgt up",
    ]
    for place in layout.switched:
        net = layout.namespace(place, "net")
        commands += [
            f"link add {place}-und mtu {mtu} type veth peer name und0 mtu {mtu} netns {net}",
            f"link set {place}-und master und up",
        ]
    for place in (*layout.switched, SERVICES):
        net = layout.namespace(place, "net")
        commands += [
            f"link add {place}-mgt type veth peer name mgt0 netns {net}",
            f"link set {place}-mgt master mgt up",
        ]
    namespaces.ip_batch(layout, FABRIC, commands)
    for place in (*layout.switched, SERVICES):
        ups = [
            f"address add {layout.management(place)}/24 dev mgt0",
            "link set mgt0 up",
        ]
        if place != SERVICES:
            ups.append("link set und0 up")
        namespaces.ip_batch(layout, place, ups)
    _join_outside(layout)


def _join_outside(layout: Layout) -> None:
    node = layout.namespace(NODE, "net")
    namespaces.ip_batch(
        layout,
        OUTSIDE,
        [
            f"link add eth0 type veth peer name ext0 netns {node}",
            f"address add {OUTSIDE_ADDRESS}/24 dev eth0",
            "link set eth0 up",
        ],
    )
    namespaces.ip_batch(layout, NODE, ["link set ext0 up"])
    # A veth leg of a userspace switch must fill in checksums itself: with offload on, ping works
    # and every TCP segment arrives with a wrong one.
    outside = namespaces.in_network(layout, OUTSIDE)
    run([*outside, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off"])


def leave_root(link: str) -> None:
    """Remove the machine's link to the lab; the other end goes with it."""
    if f" {link}@" in run(["ip", "-oneline", "link", "show", "type", "veth"]):
        run(["ip", "link", "delete", link])
