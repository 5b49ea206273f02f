"""How the networks of the settings get into the database, and what of them is used."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Row

from ccfd import settings
from ccfd.ipam import places, pools
from ccfd.store.database import Transaction
from ccfd.store.tables import network, subnet


def pool_of(cidr: str) -> str:
    """Name the pool of a network: of its blocks (type 1) or of its addresses."""
    return f"network:{cidr}"


async def import_all(configured: Sequence[settings.Network], transaction: Transaction) -> None:
    """Import the networks that the database does not have yet."""
    known = {row.cidr for row in await transaction.all(select(network.c.cidr))}
    for one in configured:
        interface = ipaddress.IPv4Interface(one.cidr)
        whole = interface.network
        cidr = str(whole) if one.type == 1 else one.cidr
        if cidr in known:
            continue
        if one.type == 1:
            first, last = int(whole.network_address), int(whole.broadcast_address)
            numbers = (0, whole.num_addresses // places.BLOCK - 1)
        else:
            first = max(int(interface.ip), int(whole.network_address) + 1)
            last = int(whole.broadcast_address) - 1
            numbers = (first, last)
        await transaction.execute(
            insert(network).values(
                cidr=cidr,
                type=one.type,
                island=one.island,
                first=first,
                last=last,
                prefix=whole.prefixlen,
                gateway=one.gateway,
            )
        )
        await pools.define(pool_of(cidr), *numbers, transaction)


async def serving(kind: int, island: str, transaction: Transaction) -> Sequence[Row[Any]]:
    """Return the networks of type *kind* that serve *island*, lowest first."""
    return await transaction.all(
        select(network)
        .where(network.c.type == kind, network.c.island == island)
        .order_by(network.c.first)
    )


async def usage(row: Row[Any], transaction: Transaction) -> tuple[int, int]:
    """Return (total, used) addresses of a network; of type 1, those in held subnets."""
    total = row.last - row.first + 1
    if row.type != 1:
        return total, await pools.used(pool_of(row.cidr), transaction)
    held: int | None = await transaction.scalar(
        select(func.sum(subnet.c.size)).where(
            subnet.c.network == row.cidr, subnet.c.state != "expired"
        )
    )
    return total, int(held or 0)
