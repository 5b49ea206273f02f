"""How the networks of the settings get into the database, and what of them is used."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import delete, func, insert, not_, select, update
from sqlalchemy.engine import Row

from ccfd import settings
from ccfd.errors import Refused
from ccfd.ipam import places, pools
from ccfd.store.database import Transaction
from ccfd.store.tables import network, subnet

LISTED = 20
"""Subnets or addresses that a refusal names at most."""


@dataclass(frozen=True, slots=True)
class Span:
    """A network as the database holds it: addresses *first* to *last* can be given out."""

    cidr: str
    type: int
    island: str
    first: int
    last: int
    prefix: int
    gateway: str | None

    @classmethod
    def of(cls, configured: settings.Network, kept: int = 0) -> "Span":
        """Read it from the settings; the last *kept* addresses are not given out."""
        interface = ipaddress.IPv4Interface(configured.cidr)
        whole = interface.network
        first, last = int(whole.network_address), int(whole.broadcast_address)
        if configured.type != 1:
            first = max(int(interface.ip), first + 1)
            last = max(first, last - 1 - kept)
        return cls(
            cidr=str(whole) if configured.type == 1 else configured.cidr,
            type=configured.type,
            island=configured.island,
            first=first,
            last=last,
            prefix=whole.prefixlen,
            gateway=configured.gateway,
        )


def pool_of(cidr: str) -> str:
    """Name the pool of a network: of its blocks (type 1) or of its addresses."""
    return f"network:{cidr}"


def _numbers(kind: int, first: int, last: int) -> tuple[int, int]:
    """Return the first and the last number of a network's pool."""
    return (first // places.BLOCK, last // places.BLOCK) if kind == 1 else (first, last)


async def import_all(
    configured: Sequence[settings.Network],
    transaction: Transaction,
    kept: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Make the networks those of the settings: new, larger or smaller, gone.

    The last *kept* addresses of a network (by its CIDR) are not given out.
    Raises `Refused` (`subnet_in_use`), naming what would lose its network.
    """
    wanted = [Span.of(one, kept.get(one.cidr, 0)) for one in configured]
    spans = {(span.cidr, span.type): span for span in wanted}
    known = {(row.cidr, row.type): row for row in await transaction.all(select(network))}
    leaving = {key: row for key, row in known.items() if key not in spans}
    for key, span in spans.items():
        before = known.get(key) or _overlapped(span, leaving.values())
        if before is None:
            continue
        leaving.pop((before.cidr, before.type), None)
        await _change(before, span, transaction)
        known[key] = before
    for row in leaving.values():
        await _remove(row, transaction)
    for key, span in spans.items():
        if key not in known:
            await transaction.execute(insert(network).values(asdict(span)))
            numbers = _numbers(span.type, span.first, span.last)
            await pools.define(pool_of(span.cidr), *numbers, transaction)


def _overlapped(span: Span, rows: Any) -> Row[Any] | None:
    """Find the network of old that *span* is, larger or smaller."""
    here = ipaddress.IPv4Interface(span.cidr).network
    return next(
        (
            row
            for row in rows
            if row.type == span.type and ipaddress.IPv4Interface(row.cidr).network.overlaps(here)
        ),
        None,
    )


async def _change(row: Row[Any], span: Span, transaction: Transaction) -> None:
    if Span(*(getattr(row, name) for name in Span.__slots__)) == span:
        return
    # Slices stay on their island; so do their addresses.
    first, last = (span.first, span.last) if span.island == row.island else (0, -1)
    await _check(row, first, last, f"become {span.cidr} on island {span.island}", transaction)
    await transaction.execute(
        update(network).where(network.c.cidr == row.cidr).values(asdict(span))
    )
    numbers = _numbers(span.type, span.first, span.last)
    await pools.resize(pool_of(row.cidr), pool_of(span.cidr), *numbers, transaction)


async def _remove(row: Row[Any], transaction: Transaction) -> None:
    await _check(row, 0, -1, "go", transaction)
    await transaction.execute(delete(subnet).where(subnet.c.network == row.cidr))
    await pools.drop(pool_of(row.cidr), transaction)
    await transaction.execute(delete(network).where(network.c.cidr == row.cidr))


async def _check(
    row: Row[Any], first: int, last: int, change: str, transaction: Transaction
) -> None:
    """Refuse a change that leaves addresses without a network: those not from *first* to *last*."""
    if row.type == 1:
        rows = await transaction.all(
            select(subnet)
            .where(
                subnet.c.network == row.cidr,
                subnet.c.state != "expired",
                not_((subnet.c.first >= first) & (subnet.c.first + subnet.c.size - 1 <= last)),
            )
            .order_by(subnet.c.first)
            .limit(LISTED + 1)
        )
        orphans = [f"{_cidr(one.first, one.size)} of {one.owner}" for one in rows]
    else:
        name, most = pool_of(row.cidr), LISTED + 1
        taken = await pools.taken_outside(name, first, last, most, transaction)
        orphans = [str(ipaddress.IPv4Address(number)) for number in taken]
    if orphans:
        more = " and more" if len(orphans) > LISTED else ""
        raise Refused(
            "subnet_in_use",
            f"network {row.cidr} cannot {change}: {', '.join(orphans[:LISTED])}{more} would have"
            " none; delete them first, or set [[network]] back",
        )


def _cidr(first: int, size: int) -> str:
    return f"{ipaddress.IPv4Address(first)}/{places.prefix(size)}"


async def serving(kind: int, island: str, transaction: Transaction) -> Sequence[Row[Any]]:
    """Return the networks of type *kind* that serve *island*, lowest first."""
    return await transaction.all(
        select(network)
        .where(network.c.type == kind, network.c.island == island)
        .order_by(network.c.first)
    )


async def take_address(kind: int, island: str, owner: str, transaction: Transaction) -> str:
    """Take the lowest free address of the networks of type *kind* that serve *island*.

    Raises `Refused` (`address_exhausted`).
    """
    for row in await serving(kind, island, transaction):
        number = await pools.take(pool_of(row.cidr), owner, transaction)
        if number is not None:
            return str(ipaddress.IPv4Address(number))
    raise Refused("address_exhausted", f"no network of type {kind} on island {island} has one left")


async def claim_address(
    kind: int, island: str, ip: str, owner: str, transaction: Transaction
) -> None:
    """Take exactly *ip* for *owner*. Raises `Refused` (`invalid_state`) where that cannot be."""
    number = int(ipaddress.IPv4Address(ip))
    rows = await serving(kind, island, transaction)
    row = next((one for one in rows if one.first <= number <= one.last), None)
    if row is None:
        raise Refused("invalid_state", f"no network of type {kind} on island {island} has {ip}")
    other = await pools.claim(pool_of(row.cidr), number, owner, transaction)
    if other is not None:
        raise Refused("invalid_state", f"the address {ip} is {other}'s")


async def give_address_back(kind: int, ip: str, transaction: Transaction) -> bool:
    """Give an address of a network of type *kind* back; False when it was not taken."""
    number = int(ipaddress.IPv4Address(ip))
    cidr = await transaction.scalar(
        select(network.c.cidr).where(
            network.c.type == kind, network.c.first <= number, network.c.last >= number
        )
    )
    return cidr is not None and await pools.give_back(pool_of(cidr), number, transaction)


async def usage(rows: Sequence[Row[Any]], transaction: Transaction) -> dict[str, tuple[int, int]]:
    """Return (total, used) addresses of networks by CIDR; of type 1, those in held subnets."""
    cidrs = [row.cidr for row in rows]
    held = await transaction.all(
        select(subnet.c.network, func.sum(subnet.c.size).label("size"))
        .where(subnet.c.network.in_(cidrs), subnet.c.state != "expired")
        .group_by(subnet.c.network)
    )
    used = {one.network: int(one.size) for one in held}
    taken = await pools.used([pool_of(cidr) for cidr in cidrs], transaction)
    return {
        row.cidr: (
            row.last - row.first + 1,
            used.get(row.cidr, 0) if row.type == 1 else taken.get(pool_of(row.cidr), 0),
        )
        for row in rows
    }
