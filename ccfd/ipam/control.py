"""Addresses on the control network: controllers have the lowest, switches those at its end.

The control network is the lowest network of type 0. Switches' addresses follow from the settings
alone: the network node's is the last one, the hosts' of its island come before it, in their order.
"""

import ipaddress
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.ipam import networks, pools
from ccfd.model import names
from ccfd.settings import Network, Settings
from ccfd.store.database import Transaction
from ccfd.store.tables import network


def configured(settings: Settings) -> Network:
    """Return the control network. Raises `Refused` (`address_exhausted`) where there is none."""
    found = [one for one in settings.network if one.type == 0]
    if not found:
        raise _nothing()
    return min(found, key=lambda one: ipaddress.IPv4Interface(one.cidr).ip)


def switch_address(settings: Settings, switch: str) -> str:
    """Return the address of *switch* (a host's name, or `names.NODE`) with its prefix.

    Raises `Refused`: `address_exhausted`; `host_not_found` for one of another island.
    """
    net = configured(settings)
    switches = _switches(settings, net)
    if switch not in switches:
        raise Refused("host_not_found", f"{switch} is no [[host]] of island {net.island}")
    interface = ipaddress.IPv4Interface(net.cidr)
    address = interface.network.broadcast_address - 1 - switches.index(switch)
    if address <= interface.ip:
        raise Refused(
            "address_exhausted",
            f"network {net.cidr} has no room for {len(switches)} switches: make it larger",
        )
    return f"{address}/{interface.network.prefixlen}"


def kept(settings: Settings) -> dict[str, int]:
    """Return how many addresses at the end of which network (CIDR) are not given out."""
    try:
        net = configured(settings)
    except Refused:
        return {}
    return {net.cidr: len(_switches(settings, net))}


def _switches(settings: Settings, net: Network) -> list[str]:
    return [names.NODE, *(host.name for host in settings.host if host.island == net.island)]


async def take(holder: str, island: str, transaction: Transaction) -> str:
    """Take the lowest free address for *holder* (the id of a controller's VM).

    Raises `Refused`: `address_exhausted`; `invalid_state` on another island than the network's.
    """
    row = await _row(transaction)
    if row.island != island:
        raise Refused(
            "invalid_state",
            f"the control network {row.cidr} serves island {row.island}, not {island}: there, give"
            " slices the address of a controller of their own",
        )
    number = await pools.take(networks.pool_of(row.cidr), holder, transaction)
    if number is None:
        raise Refused("address_exhausted", f"network {row.cidr} has no address left")
    return str(ipaddress.IPv4Address(number))


async def claim(ip: str, holder: str, transaction: Transaction) -> None:
    """Take exactly *ip* for *holder*. Raises `Refused` (`invalid_state`) where that cannot be."""
    row, number = await _row(transaction), int(ipaddress.IPv4Address(ip))
    if not row.first <= number <= row.last:
        raise Refused("invalid_state", f"{ip} is not in the control network {row.cidr}")
    other = await pools.claim(networks.pool_of(row.cidr), number, holder, transaction)
    if other is not None:
        raise Refused("invalid_state", f"the address {ip} is {other}'s")


async def give_back(ip: str, transaction: Transaction) -> bool:
    """Give an address of a network of type 0 back; False when it was not taken."""
    return await networks.give_address_back(0, ip, transaction)


async def _row(transaction: Transaction) -> Row[Any]:
    row = await transaction.one(
        select(network).where(network.c.type == 0).order_by(network.c.first).limit(1)
    )
    if row is None:
        raise _nothing()
    return row


def _nothing() -> Refused:
    return Refused("address_exhausted", "there is no control network: add a [[network]] of type 0")
