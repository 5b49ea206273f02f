"""The life of a subnet: reserved, confirmed or expired, deleted; and the addresses in it.

Everything here happens in the caller's transaction, so it is gone when that is rolled back.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.ipam import networks, places, pools, quick
from ccfd.store import outbox
from ccfd.store.database import Transaction
from ccfd.store.tables import address, block, network, slices, subnet


def cidr_of(row: Row[Any]) -> str:
    """Return a subnet as `10.0.0.0/26`."""
    return f"{ipaddress.IPv4Address(row.first)}/{places.prefix(row.size)}"


def gateway_of(row: Row[Any]) -> str:
    """Return a subnet's first usable address with its prefix: `10.0.0.1/26`."""
    return places.gateway(row.first, row.size)


async def find(owner: str, transaction: Transaction, *, lock: bool = False) -> Row[Any] | None:
    """Return the owner's subnet, whatever its state, or None."""
    query = select(subnet).where(subnet.c.owner == owner)
    return await transaction.one(query.with_for_update() if lock else query)


async def find_all(owners: Sequence[str], transaction: Transaction) -> dict[str, Row[Any]]:
    """Return the subnets of *owners*, whatever their state, by owner."""
    found = await transaction.all(select(subnet).where(subnet.c.owner.in_(owners)))
    return {one.owner: one for one in found}


async def reserve(
    owner: str, size: int, seconds: int, island: str, transaction: Transaction
) -> Row[Any]:
    """Reserve a subnet of *size* addresses for *owner* for *seconds*.

    A subnet that is still reserved is the answer again, with a new timeout. Raises `Refused`:
    `subnet_exists` (confirmed, or of another size), `network_exhausted`.
    """
    expires_at = transaction.now + timedelta(seconds=seconds)
    transaction.wake("timers")
    if (await transaction.connection()).dialect.name == "postgresql":
        wish = quick.Wish(owner, size, seconds, expires_at, island)
        at_once = await quick.reserve(wish, transaction)
        if at_once is not None:
            return at_once
    known = await find(owner, transaction, lock=True)
    if known is not None and known.state == "expired":
        await transaction.execute(delete(subnet).where(subnet.c.id == known.id))
        known = None
    if known is not None and (known.state == "confirmed" or known.size != size):
        raise Refused(
            "subnet_exists",
            f"{owner} has the {known.state} subnet {gateway_of(known)}: delete it first",
        )
    if known is not None:
        changed = await transaction.one(
            update(subnet)
            .where(subnet.c.id == known.id)
            .values(expires_at=expires_at, timeout=seconds)
            .returning(subnet)
        )
        assert changed is not None
        return changed
    found = await _take_place(owner, size, island, transaction)
    made = await transaction.one(
        insert(subnet)
        .values(
            owner=owner,
            **found,
            size=size,
            state="reserved",
            timeout=seconds,
            expires_at=expires_at,
        )
        .returning(subnet)
    )
    assert made is not None
    return made


async def _take_place(
    owner: str, size: int, island: str, transaction: Transaction
) -> dict[str, Any]:
    nets = await networks.serving(1, island, transaction)
    # First past the blocks that others are changing; if nothing is left, after them.
    for waits in (False, True):
        for net in nets:
            found = await _open_place(net.cidr, size, transaction, waits=waits)
            if found is None:
                found = await _fresh_block(net.cidr, size, transaction)
            if found is not None:
                number, place = found
                first = places.first_address(number, place, size)
                return {"network": net.cidr, "block": number, "place": place, "first": first}
    raise Refused(
        "network_exhausted",
        f"no network of type 1 on island {island} has room for {size} addresses for {owner}",
    )


async def _open_place(
    cidr: str, size: int, transaction: Transaction, *, waits: bool
) -> tuple[int, int] | None:
    """Take the lowest free place of the lowest open block; return both."""
    opened = await transaction.one(
        select(block)
        .where(block.c.network == cidr, block.c.size == size, ~block.c.is_full)
        .order_by(block.c.network, block.c.size, block.c.number)
        .limit(1)
        .with_for_update(skip_locked=not waits)
    )
    if opened is None:
        return None
    place = places.lowest_free(opened.used, size)
    used = places.with_place(opened.used, place)
    await transaction.execute(
        update(block)
        .where(block.c.network == cidr, block.c.number == opened.number)
        .values(used=used, is_full=places.is_full(used, size))
    )
    return opened.number, place


async def _fresh_block(cidr: str, size: int, transaction: Transaction) -> tuple[int, int] | None:
    """Open the lowest free block, and take its first place; return both."""
    number = await pools.take(networks.pool_of(cidr), f"size:{size}", transaction)
    if number is None:
        return None
    used = places.with_place(0, 0)
    values = {"size": size, "used": used, "is_full": places.is_full(used, size)}
    await transaction.execute(insert(block).values(network=cidr, number=number, **values))
    return number, 0


async def claim(owner: str, gateway: str, seconds: int, transaction: Transaction) -> Row[Any]:
    """Give *owner* exactly the subnet whose first usable address is *gateway*, confirmed.

    Raises `Refused`: `subnet_exists` (the owner has one), `subnet_in_use` (of another),
    `network_exhausted` (no network of type 1 holds it).
    """
    whole = ipaddress.IPv4Interface(gateway).network
    first, size = int(whole.network_address), whole.num_addresses
    known = await find(owner, transaction, lock=True)
    if known is not None:
        raise Refused("subnet_exists", f"{owner} has the {known.state} subnet {gateway_of(known)}")
    held = await transaction.one(
        select(network)
        .where(network.c.type == 1, network.c.first <= first, network.c.last >= first + size - 1)
        .limit(1)
    )
    if held is None:
        raise Refused("network_exhausted", f"no [[network]] of type 1 holds the subnet {whole}")
    try:
        number, place = places.place_of(first, size)
    except ValueError as exc:
        raise Refused("network_exhausted", f"{whole} is no subnet of {held.cidr}: {exc}") from exc
    await _claim_place(held.cidr, number, place, size, transaction)
    made = await transaction.one(
        insert(subnet)
        .values(
            owner=owner,
            network=held.cidr,
            block=number,
            place=place,
            first=first,
            size=size,
            state="confirmed",
            timeout=seconds,
        )
        .returning(subnet)
    )
    assert made is not None
    return made


async def _claim_place(
    cidr: str, number: int, place: int, size: int, transaction: Transaction
) -> None:
    used = places.with_place(0, place)
    # The number first: whoever else opens the block, or gives it back, is waited for.
    if await pools.claim(networks.pool_of(cidr), number, f"size:{size}", transaction) is None:
        values = {"used": used, "is_full": places.is_full(used, size)}
        await transaction.execute(
            insert(block).values(network=cidr, number=number, size=size, **values)
        )
        return
    here = (block.c.network == cidr, block.c.number == number)
    opened = await transaction.one(select(block).where(*here).with_for_update())
    if opened is None or opened.size != size or opened.used & used:
        raise await _in_use(cidr, number, transaction)
    used |= opened.used
    await transaction.execute(
        update(block).where(*here).values(used=used, is_full=places.is_full(used, size))
    )


async def _in_use(cidr: str, number: int, transaction: Transaction) -> Refused:
    """Say whose the subnets of a block are."""
    rows = await transaction.all(
        select(subnet)
        .where(subnet.c.network == cidr, subnet.c.block == number, subnet.c.state != "expired")
        .order_by(subnet.c.first)
    )
    whose = ", ".join(f"{cidr_of(row)} of {row.owner}" for row in rows) or "what just goes"
    return Refused("subnet_in_use", f"the block of 64 addresses has {whose} in it")


async def confirm(owner: str, transaction: Transaction) -> Row[Any]:
    """Make the owner's reservation lasting; raise `Refused` (`subnet_not_found`, `…_expired`)."""
    known = await find(owner, transaction, lock=True)
    if known is None:
        raise Refused("subnet_not_found", f"{owner} has no subnet: send subnet.create")
    if known.state == "expired" or _is_due(known, transaction.now):
        raise Refused(
            "subnet_expired",
            f"the reservation of {gateway_of(known)} for {owner} has expired:"
            " send subnet.create again",
        )
    changed = await transaction.one(
        update(subnet)
        .where(subnet.c.id == known.id)
        .values(state="confirmed", expires_at=None)
        .returning(subnet)
    )
    assert changed is not None
    return changed


def _is_due(row: Row[Any], now: datetime) -> bool:
    due: bool = row.state == "reserved" and row.expires_at <= now
    return due


async def unconfirm(owner: str, expires_at: datetime, transaction: Transaction) -> None:
    """Make the owner's subnet `reserved` again, with the expiry that it had before."""
    await transaction.execute(
        update(subnet)
        .where(subnet.c.owner == owner, subnet.c.state == "confirmed")
        .values(state="reserved", expires_at=expires_at)
    )
    transaction.wake("timers")


async def release(owner: str, transaction: Transaction) -> bool:
    """Delete the owner's subnet and its addresses; False when there is none."""
    known = await find(owner, transaction, lock=True)
    if known is None:
        return False
    await transaction.execute(delete(address).where(address.c.subnet == known.id))
    await transaction.execute(delete(subnet).where(subnet.c.id == known.id))
    if known.state != "expired":
        await _free_place(known, transaction)
    return True


async def remove(owner: str, transaction: Transaction) -> None:
    """Delete the owner's subnet at the owner's wish.

    Raises `Refused`: `subnet_not_found`, `subnet_in_use` (a slice or an address lives in it).
    """
    known = await find(owner, transaction)
    if known is None:
        raise Refused("subnet_not_found", f"{owner} has no subnet")
    in_use = await transaction.scalar(select(slices.c.name).where(slices.c.name == owner))
    taken = await transaction.scalar(
        select(func.count()).select_from(address).where(address.c.subnet == known.id)
    )
    if in_use is not None or taken:
        raise Refused(
            "subnet_in_use",
            f"the subnet of {owner} is in use: delete the slice and its VMs first",
        )
    await release(owner, transaction)


async def _free_place(row: Row[Any], transaction: Transaction) -> None:
    held = await transaction.one(
        select(block)
        .where(block.c.network == row.network, block.c.number == row.block)
        .with_for_update()
    )
    assert held is not None, "a held subnet lies in an open block"
    used = places.without_place(held.used, row.place)
    here = (block.c.network == row.network, block.c.number == row.block)
    if used:
        await transaction.execute(update(block).where(*here).values(used=used, is_full=False))
    else:
        await transaction.execute(delete(block).where(*here))
        await pools.give_back(networks.pool_of(row.network), row.block, transaction)


async def expire(transaction: Transaction, limit: int = 100) -> int:
    """Expire the reservations that are due, with a notice for each; return how many."""
    due = await transaction.all(
        select(subnet)
        .where(subnet.c.state == "reserved", subnet.c.expires_at <= transaction.now)
        .order_by(subnet.c.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    for row in due:
        await transaction.execute(
            update(subnet).where(subnet.c.id == row.id).values(state="expired")
        )
        await _free_place(row, transaction)
        await outbox.notice(transaction, "subnet.expired", owner=row.owner, subnet=gateway_of(row))
    return len(due)


async def allocate(owner: str, holder: str, transaction: Transaction) -> str:
    """Take the lowest free address of the owner's confirmed subnet for *holder* (a VM's id).

    The first usable address is the gateway's. Raises `Refused`: `subnet_not_found`,
    `subnet_expired`, `address_exhausted`.
    """
    if (await transaction.connection()).dialect.name == "postgresql":
        at_once = await quick.allocate(quick.Holder(owner, holder), transaction)
        if at_once is not None:
            return at_once
    row = await find(owner, transaction, lock=True)
    if row is None:
        raise Refused("subnet_not_found", f"{owner} has no subnet")
    if row.state != "confirmed":
        raise Refused("subnet_expired", f"the subnet of {owner} is {row.state}, not confirmed")
    taken = await transaction.all(select(address.c.number).where(address.c.subnet == row.id))
    number = places.lowest_gap(
        {item.number for item in taken}, row.first + 2, row.first + row.size - 2
    )
    if number is None:
        raise Refused("address_exhausted", f"no address is free in {cidr_of(row)} of {owner}")
    await transaction.execute(insert(address).values(number=number, subnet=row.id, owner=holder))
    return str(ipaddress.IPv4Address(number))


async def claim_address(owner: str, ip: str, holder: str, transaction: Transaction) -> None:
    """Take exactly *ip* of the owner's subnet for *holder* (a VM's id).

    Raises `Refused` (`invalid_state`) where it lies elsewhere or somebody else has it.
    """
    row = await find(owner, transaction, lock=True)
    number = int(ipaddress.IPv4Address(ip))
    if row is None or not row.first + 2 <= number <= row.first + row.size - 2:
        where = "nothing" if row is None else cidr_of(row)
        raise Refused("invalid_state", f"{ip} is no address for a VM of {owner}, which has {where}")
    known = await transaction.scalar(select(address.c.owner).where(address.c.number == number))
    if known is not None:
        raise Refused("invalid_state", f"the address {ip} is {known}'s")
    await transaction.execute(insert(address).values(number=number, subnet=row.id, owner=holder))


async def release_address(ip: str, transaction: Transaction) -> bool:
    """Give an address of a subnet back; False when it was not taken."""
    freed = await transaction.execute(
        delete(address).where(address.c.number == int(ipaddress.IPv4Address(ip)))
    )
    return freed.rowcount == 1


async def island_of(row: Row[Any], transaction: Transaction) -> str:
    """Return the island of a subnet's network."""
    island: str = await transaction.scalar(
        select(network.c.island).where(network.c.cidr == row.network)
    )
    return island
