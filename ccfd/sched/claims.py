"""How room on a host is claimed and given back: in the deciding transaction, under CHECKs."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import compress
from typing import Any

from sqlalchemy import case, exists, func, select, update

from ccfd.errors import Refused
from ccfd.sched import placement
from ccfd.sched.hosts import SIZES, HostRow, Hosts, Want
from ccfd.settings import Policy
from ccfd.store.database import Transaction
from ccfd.store.tables import host, vm


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Room on a host: vCPUs, MiB, GiB."""

    host: str
    cpu: int
    ram: int
    disk: int


UNITS = {"cpu": "vCPUs", "ram": "MiB", "disk": "GiB"}


class _Full(Exception):
    """Somebody else has taken the room meanwhile."""


async def snapshot(slice_name: str, images: Iterable[str], transaction: Transaction) -> Hosts:
    """Return every configured host as placement sees it for VMs of *slice_name* with *images*."""
    mine = (
        select(vm.c.host, func.aggregate_strings(vm.c.name, ",").label("names"))
        .where(vm.c.slice == slice_name, vm.c.host.is_not(None))
        .group_by(vm.c.host)
        .subquery()
    )
    known = sorted(set(images))
    # An image is where a VM was made of it: one probe of an index for each host.
    there = [
        exists().where(vm.c.image_checksum == image, vm.c.host == host.c.name) for image in known
    ]
    rows = await transaction.all(
        select(host, mine.c.names, *there)
        .outerjoin(mine, mine.c.host == host.c.name)
        .where(host.c.configured)
    )
    return Hosts.of(
        HostRow(
            name=row.name,
            island=row.island,
            state=state_of(up=row.up, draining=row.draining),
            cpu_used=row.cpu_used,
            ram_used=row.ram_used,
            disk_used=row.disk_used,
            cpu_limit=row.cpu_limit,
            ram_limit=row.ram_limit,
            disk_limit=row.disk_limit,
            vms=tuple(row.names.split(",")) if row.names else (),
            images=tuple(compress(known, row[len(row) - len(known) :])),
        )
        for row in rows
    )


def state_of(*, up: bool, draining: bool) -> str:
    """Return the state of a host's document."""
    if not up:
        return "down"
    return "draining" if draining else "up"


async def place(
    slice_name: str, wants: Sequence[Want], policy: Policy, transaction: Transaction
) -> list[str]:
    """Choose a host for each of *wants*, and take the room there.

    Raises `Refused` (`no_valid_host`, `host_not_found`).
    """
    images = [want.image for want in wants]
    while True:
        hosts = await snapshot(slice_name, images, transaction)
        chosen = placement.place(hosts, wants, policy)
        claims = [
            Claim(host=name, cpu=want.cpu, ram=want.ram, disk=want.disk)
            for name, want in zip(chosen, wants, strict=True)
        ]
        if await _taken(_total(claims), transaction):
            return chosen


async def _taken(total: Mapping[str, tuple[int, int, int]], transaction: Transaction) -> bool:
    """Take room on every host, or on none: False when one has no room for it any more."""
    try:
        async with transaction.savepoint() if len(total) > 1 else nullcontext():
            # In name order, so that two transactions cannot wait for each other.
            for name in sorted(total):
                await _take(name, total[name], transaction)
    except _Full:
        return False
    return True


async def _take(name: str, amounts: tuple[int, int, int], transaction: Transaction) -> None:
    used = {
        f"{size}_used": host.c[f"{size}_used"] + amount
        for size, amount in zip(SIZES, amounts, strict=True)
    }
    fits = (used[f"{size}_used"] <= host.c[f"{size}_limit"] for size in SIZES)
    done = await transaction.execute(update(host).where(host.c.name == name, *fits).values(used))
    if done.rowcount != 1:
        raise _Full


async def grow(vm_name: str, more: Claim, transaction: Transaction) -> None:
    """Take *more* room for a VM on the host that it is on, drained or not.

    Raises `Refused` (`no_valid_host`, with details as of a placement).
    """
    if await _taken(_total([more]), transaction):
        return
    row = await transaction.one(select(host).where(host.c.name == more.host))
    assert row is not None, "a VM is on a host"
    short = {
        size: f"{size}: {free} {UNITS[size]} free, {wanted} more wanted"
        for size in SIZES
        if (wanted := getattr(more, size))
        > (free := getattr(row, f"{size}_limit") - getattr(row, f"{size}_used"))
    }
    size, why = next(iter(short.items()), ("state", "somebody else has taken the room meanwhile"))
    raise Refused(
        "no_valid_host",
        f"host {more.host} has no room for the VM {vm_name} to grow; details say why",
        details={"vm": vm_name, "filters": {size: 1}, "hosts": {more.host: why}},
    )


async def claim(claims: Iterable[Claim], transaction: Transaction) -> None:
    """Take room; a host that would be overfilled fails the transaction, which is run again."""
    await _add(_total(claims), 1, transaction)


async def adopt(claims: Iterable[Claim], transaction: Transaction) -> None:
    """Note room that is taken already: where a host has less by now, its limit gives way."""
    total = _total(claims)
    for name in sorted(total):
        values: dict[str, Any] = {}
        for size, amount in zip(SIZES, total[name], strict=True):
            used, limit = host.c[f"{size}_used"] + amount, host.c[f"{size}_limit"]
            values |= {
                f"{size}_used": used,
                f"{size}_limit": case((limit < used, used), else_=limit),
            }
        await transaction.execute(update(host).where(host.c.name == name).values(values))


async def free(claims: Iterable[Claim], transaction: Transaction) -> None:
    """Give room back."""
    await _add(_total(claims), -1, transaction)


def _total(claims: Iterable[Claim]) -> Mapping[str, tuple[int, int, int]]:
    total: dict[str, tuple[int, int, int]] = {}
    for one in claims:
        cpu, ram, disk = total.get(one.host, (0, 0, 0))
        total[one.host] = (cpu + one.cpu, ram + one.ram, disk + one.disk)
    return total


async def _add(
    total: Mapping[str, tuple[int, int, int]], sign: int, transaction: Transaction
) -> None:
    # In name order, so that two transactions cannot wait for each other.
    for name in sorted(total):
        cpu, ram, disk = (sign * amount for amount in total[name])
        await transaction.execute(
            update(host)
            .where(host.c.name == name)
            .values(
                cpu_used=host.c.cpu_used + cpu,
                ram_used=host.c.ram_used + ram,
                disk_used=host.c.disk_used + disk,
            )
        )
