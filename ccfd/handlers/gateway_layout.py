"""What a slice's gateway is: pure, from its plan and the settings."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from ccfd.errors import Refused
from ccfd.handlers.layout import Layout
from ccfd.model import names
from ccfd.model.network import Gateway
from ccfd.model.slice import PlannedSlice
from ccfd.settings import Host, Network, NetworkNode, Settings

LINK_LOCAL = "169.254.0.0/16"
"""Nobody forwards these: RFC 3927, section 7."""


def gateways(layout: Layout, planned: PlannedSlice) -> tuple[Gateway, ...]:
    """Describe the slice's gateway, if it has one.

    Raises `Refused` (`invalid_state`) where the settings have no network for its address any more.
    """
    if planned.gateway is None:
        return ()
    network = _network(layout.settings, planned.gateway)
    prefix = network.cidr.partition("/")[2]
    return (
        Gateway(
            slice=planned.name,
            vni=planned.vni,
            inside=planned.address,
            outside=f"{planned.gateway}/{prefix}",
            mac=names.mac(planned.gateway, planned.vni),
            router=network.gateway,
            closed=closed(layout.settings),
        ),
    )


def _network(settings: Settings, address: str) -> Network:
    for one in settings.network:
        whole = ipaddress.IPv4Interface(one.cidr).network
        if one.type == 2 and ipaddress.IPv4Address(address) in whole:
            return one
    raise Refused(
        "invalid_state", f"no [[network]] of type 2 holds the gateway's address {address}: add it"
    )


def closed(settings: Settings) -> tuple[str, ...]:
    """List what no slice may reach through its gateway, as far as the settings tell it.

    The slices' own networks, the control network, and the addresses of this machine, the hosts,
    the broker and the database.
    """
    told = {LINK_LOCAL, *_networks(settings), *_addresses(settings)}
    return tuple(sorted(told, key=ipaddress.IPv4Network))


def _networks(settings: Settings) -> Iterator[str]:
    for one in settings.network:
        if one.type != 2:
            yield str(ipaddress.IPv4Interface(one.cidr).network)


def _addresses(settings: Settings) -> Iterator[str]:
    node = settings.network_node
    told = [node.tunnel_ip, *_of_switch(node), settings.http.listen.rpartition(":")[0]]
    told += [urlsplit(url).hostname or "" for url in (settings.broker.url, settings.database.url)]
    for host in settings.host:
        told += [host.tunnel_ip, *_of_switch(host), urlsplit(host.libvirt).hostname or ""]
    for text in told:
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:  # a name, an IPv6 address, a UNIX socket
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield str(address)


def _of_switch(place: Host | NetworkNode) -> Iterator[str]:
    for endpoint in (place.ovsdb, place.openflow or ""):
        yield endpoint.partition(":")[2].rpartition(":")[0]
