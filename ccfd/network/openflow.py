"""Tells where a switch's guard takes its flows: beside its database, unless the settings know."""

import ipaddress

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.network.endpoints import Endpoint, Tcp, Unix, parse

PORT = 6653
"""OpenFlow's port (IANA); nobody but ccfd is to reach the guard's."""


def endpoint(openflow: str | None, ovsdb: str, tunnel_ip: str) -> Endpoint:
    """Return the guard's place. Raises `Refused` (`invalid_message`) where none can be told."""
    if openflow is not None:
        place = parse(openflow, "address for OpenFlow")
        if isinstance(place, Tcp) and not _is_address(place.host):
            raise Refused(
                "invalid_message",
                f"openflow = {openflow!r}: the switch listens at an address, not at a name",
            )
        return place
    place = parse(ovsdb)
    if isinstance(place, Unix):
        # ovs-vswitchd(8) makes each bridge's socket where its database's is by default.
        return Unix(f"{place.path.rpartition('/')[0]}/{names.GUARD}.mgmt")
    return Tcp(place.host if _is_address(place.host) else tunnel_ip, PORT, place.tls)


def written(place: Endpoint) -> str:
    """Write the place as `ovs-ofctl` wants it."""
    if isinstance(place, Unix):
        return f"unix:{place.path}"
    return f"{'ssl' if place.tls else 'tcp'}:{_bracketed(place.host)}:{place.port}"


def listener(place: Endpoint) -> str:
    """Return the target by which the guard listens there; empty for its own UNIX socket."""
    if isinstance(place, Unix):
        return ""
    return f"{'pssl' if place.tls else 'ptcp'}:{place.port}:{_bracketed(place.host)}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
