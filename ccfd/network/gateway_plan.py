"""Decides what a slice's gateway is: its firewall (nft(8)), and its leg outside (ip(8)).

The whole firewall is one table in the slice's own namespace, replaced in one transaction: a file
that names the table, deletes it and makes it anew. Connections that are under way go on.
"""

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ccfd.model import names
from ccfd.model.network import Gateway
from ccfd.network.links import INSIDE, Leg, Link, Work, inner_end, join, read_links

OUTSIDE = "outside"
"""The outer leg's name in the namespace."""

TABLE = "inet ccf-gateway"

NO_TABLE = f"table {TABLE}\ndelete table {TABLE}\n"
"""Deletes the table, also where there is none: naming it makes it."""

SYSCTLS = ("net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.all.accept_redirects=0")
"""Strict: what comes in by a leg must be from where that leg leads (RFC 3704, section 2.2)."""

LOOK = "address show\nroute show default\nnetconf show\n"
"""Lines for `ip -json -batch`, read by `read_present`."""


Kind = Literal["switch", "bridge", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """What gateways go out by: an OVS bridge, a Linux bridge, or any other link of the machine.

    `ifindex` and `mtu` are its link's.
    """

    name: str
    kind: Kind
    ifindex: int
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What a namespace has of a gateway: its leg, its routers, whether it forwards."""

    inner: Link | None = None
    routers: tuple[str, ...] = ()
    forwards: bool = False


def ruleset(gateway: Gateway) -> str:
    """Write the file that replaces the firewall.

    What is closed is so for connections that were open before, too: it stands first. A newline
    ends each rule, which nft 1.0.6 wants before a brace.
    """
    subnet = ipaddress.IPv4Interface(gateway.inside).network
    inside, outside = (one.partition("/")[0] for one in (gateway.inside, gateway.outside))
    closed = "".join(f"{one}, " for one in gateway.closed).removesuffix(", ")
    elements = f"\n\t\telements = {{ {closed} }}" if closed else ""
    return f"""{NO_TABLE}table {TABLE} {{
\tset closed {{
\t\ttype ipv4_addr
\t\tflags interval
\t\tauto-merge{elements}
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "lo" accept
\t\tiifname "{INSIDE}" udp dport 67 accept
\t\tiifname "{INSIDE}" ip saddr {subnet} ip daddr {inside} icmp type echo-request accept
\t\tct state established,related accept
\t}}
\tchain forwarded {{
\t\ttype filter hook forward priority filter; policy drop;
\t\tiifname "{INSIDE}" ip daddr @closed counter drop
\t\tct state invalid drop
\t\tct state established,related accept
\t\tiifname "{INSIDE}" oifname "{OUTSIDE}" ip saddr {subnet} accept
\t}}
\tchain translated {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\toifname "{OUTSIDE}" ip saddr {subnet} snat ip to {outside}
\t}}
}}
"""


def open_leg(wanted: Gateway, way: WayOut, outer: Link | None, present: Present) -> Work:
    """List the commands that complete the leg outside and its route."""
    leg = Leg(
        outer=names.outside_port(wanted.vni),
        inner=OUTSIDE,
        namespace=names.namespace(wanted.vni),
        address=wanted.outside,
        mac=wanted.mac,
        mtu=way.mtu,
    )
    if way.kind == "device":
        work = _on_device(leg, way, outer, present.inner)
    else:
        work = join(leg, outer, present.inner)
    here = work.here
    if way.kind == "bridge" and (outer is None or outer.master != way.name or here):
        here = (*here, f"link set {leg.outer} master {way.name}")
    return Work(
        clear=work.clear,
        here=here,
        # An address or a link that goes takes its route along.
        within=(*work.within, *_routes(wanted, present, anew=bool(work.here or work.within))),
    )


def _on_device(leg: Leg, way: WayOut, outer: Link | None, inner: Link | None) -> Work:
    """Have the leg on a link of the machine itself, which is shared: a macvlan."""
    clear: tuple[str, ...] = ()
    here: tuple[str, ...] = (f"link delete {leg.outer}",) if outer else ()
    if inner is not None and (outer is not None or inner.peer != way.ifindex):
        # Of a veth pair deleting one end is enough.
        clear = () if outer is not None else (f"link delete {leg.inner}",)
        inner = None
    if inner is None:
        here = (
            *here,
            f"link add link {way.name} name {leg.inner} address {leg.mac} "
            f"mtu {leg.mtu} netns {leg.namespace} type macvlan mode bridge",
        )
    return Work(clear=clear, here=here, within=inner_end(leg, inner))


def _routes(wanted: Gateway, present: Present, *, anew: bool) -> tuple[str, ...]:
    if wanted.router is None:
        return ("route delete default",) if present.routers else ()
    if not anew and present.routers == (wanted.router,):
        return ()
    return (f"route replace default via {wanted.router} dev {OUTSIDE}",)


def read_present(text: str) -> Present:
    """Read what `ip -json -batch` printed for `LOOK`; the leg may be missing."""
    links, routes, configured = _documents(text)
    return Present(
        inner=read_links(json.dumps(links)).get(OUTSIDE),
        routers=tuple(row.get("gateway", "") for row in routes),
        forwards=any(
            row.get("forwarding") is True
            for row in configured
            if (row.get("family"), row.get("interface")) == ("inet", "all")
        ),
    )


def _documents(text: str) -> Sequence[Any]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return [*found, [], [], []][:3]


def mark(gateway: Gateway) -> str:
    """Return what tells this gateway from any other: a digest."""
    return digest(ruleset(gateway), gateway.outside, gateway.mac, gateway.router or "")


def digest(*texts: str) -> str:
    """Digest *texts*."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
