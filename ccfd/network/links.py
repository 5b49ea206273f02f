"""Decides which `ip` commands give a slice its namespace and its leg into the slice's bridge."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ccfd.model import names
from ccfd.model.network import Namespace

INSIDE = "inside"
"""The leg's name in the namespace; the gateway and the DHCP server know it by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A Linux link as `ip -json address` tells it; `peer` is the ifindex of a veth's other end."""

    ifindex: int
    peer: int | None
    mtu: int
    mac: str
    up: bool
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What stands already: the namespace, the leg's two ends (`outer` is in ccfd's namespace)."""

    namespace: bool = False
    outer: Link | None = None
    inner: Link | None = None
    loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Lines for `ip -batch`: `clear` in the slice's namespace, `here` in ccfd's, then `within`."""

    clear: tuple[str, ...] = ()
    here: tuple[str, ...] = ()
    within: tuple[str, ...] = ()


def open_leg(wanted: Namespace, present: Present) -> Work:
    """List the commands that complete the leg; ends that do not belong together are made anew.

    A leg that only lacks something keeps its links: a switch that listens to one would not notice
    that it was replaced (see `bridges`).
    """
    outer = names.inside_port(wanted.vni)
    namespace = names.namespace(wanted.vni)
    clear: list[str] = []
    here: list[str] = []
    within: list[str] = []
    a, b = present.outer, present.inner
    if not (a and b and a.peer == b.ifindex and b.peer == a.ifindex):
        # Deleting one end deletes the other. An inner end without an outer one is a stranger's.
        if a:
            here.append(f"link delete {outer}")
        elif b:
            clear.append(f"link delete {INSIDE}")
        here.append(
            f"link add {outer} mtu {wanted.mtu} type veth peer name {INSIDE} "
            f"address {wanted.mac} mtu {wanted.mtu} netns {namespace}"
        )
        a = b = None
    if a is None or a.mtu != wanted.mtu or not a.up:
        here.append(f"link set {outer} mtu {wanted.mtu} up")
    if not present.loopback:
        within.append("link set lo up")
    if b is not None and (b.mtu != wanted.mtu or b.mac != wanted.mac):
        within.append(f"link set {INSIDE} address {wanted.mac} mtu {wanted.mtu}")
    addresses = b.addresses if b else ()
    within += [f"address delete {one} dev {INSIDE}" for one in addresses if one != wanted.address]
    if wanted.address not in addresses:
        within.append(f"address add {wanted.address} dev {INSIDE}")
    if b is None or not b.up:
        within.append(f"link set {INSIDE} up")
    return Work(clear=tuple(clear), here=tuple(here), within=tuple(within))


def read_links(text: str) -> dict[str, Link]:
    """Read what `ip -json address show` printed; IPv4 addresses only, with their prefix."""
    return {row["ifname"]: _link(row) for row in json.loads(text or "[]") if row}


def _link(row: Mapping[str, Any]) -> Link:
    return Link(
        ifindex=row["ifindex"],
        peer=row.get("link_index"),
        mtu=row["mtu"],
        mac=row.get("address", ""),
        up="UP" in row["flags"],
        addresses=tuple(
            f"{one['local']}/{one['prefixlen']}"
            for one in row.get("addr_info", [])
            if one["family"] == "inet"
        ),
    )
