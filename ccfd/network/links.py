"""Decides which `ip` commands give a slice its namespace and its leg into the slice's bridge."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ccfd.model import names
from ccfd.model.network import Namespace

INSIDE = "inside"
"""The leg's name in the namespace; the gateway and the DHCP server know it by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A Linux link as `ip -json address` tells it; `peer` is the ifindex of a veth's other end.

    `master` is the bridge that it is on, `kind` what `ip -details` calls it, where that was asked.
    """

    ifindex: int
    peer: int | None
    mtu: int
    mac: str
    up: bool
    addresses: tuple[str, ...] = ()
    master: str | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A veth pair out of a namespace: what its ends are called, and what `inner` shall have."""

    outer: str
    inner: str
    namespace: str
    address: str
    mac: str
    mtu: int


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
    """List the commands that complete the namespace: its leg inside, and loopback."""
    leg = Leg(
        outer=names.inside_port(wanted.vni),
        inner=INSIDE,
        namespace=names.namespace(wanted.vni),
        address=wanted.address,
        mac=wanted.mac,
        mtu=wanted.mtu,
    )
    work = join(leg, present.outer, present.inner)
    return work if present.loopback else replace(work, within=("link set lo up", *work.within))


def join(leg: Leg, a: Link | None, b: Link | None) -> Work:
    """List the commands that complete *leg*, whose ends are *a* (outer) and *b* (inner).

    Ends that do not belong together are made anew. A leg that only lacks something keeps its
    links: a switch that listens to one would not notice that it was replaced (see `bridges`).
    """
    clear: list[str] = []
    here: list[str] = []
    if not (a and b and a.peer == b.ifindex and b.peer == a.ifindex):
        # Deleting one end deletes the other. An inner end without an outer one is a stranger's.
        if a:
            here.append(f"link delete {leg.outer}")
        elif b:
            clear.append(f"link delete {leg.inner}")
        here.append(
            f"link add {leg.outer} mtu {leg.mtu} type veth peer name {leg.inner} "
            f"address {leg.mac} mtu {leg.mtu} netns {leg.namespace}"
        )
        a = b = None
    if a is None or a.mtu != leg.mtu or not a.up:
        here.append(f"link set {leg.outer} mtu {leg.mtu} up")
    return Work(clear=tuple(clear), here=tuple(here), within=inner_end(leg, b))


def inner_end(leg: Leg, present: Link | None) -> tuple[str, ...]:
    """List the commands that give the inner end what it shall have, from what it has."""
    lines = []
    if present is not None and (present.mtu != leg.mtu or present.mac != leg.mac):
        lines.append(f"link set {leg.inner} address {leg.mac} mtu {leg.mtu}")
    addresses = present.addresses if present else ()
    lines += [f"address delete {one} dev {leg.inner}" for one in addresses if one != leg.address]
    if leg.address not in addresses:
        lines.append(f"address add {leg.address} dev {leg.inner}")
    if present is None or not present.up:
        lines.append(f"link set {leg.inner} up")
    return tuple(lines)


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
        master=row.get("master"),
        kind=row.get("linkinfo", {}).get("info_kind", ""),
    )
