"""How room on a host is claimed and given back: in the deciding transaction, under CHECKs."""

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import compress
from typing import Any

from sqlalchemy import Select, Update, bindparam, case, exists, func, select, update

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

FURTHEST = 6
"""How far apart those look who have passed the same hosts: among 64, as a power of two."""


class _Passed(Exception):
    """A host that was chosen has no room any more, or somebody else is just taking some."""


@cache
def _look(images: int) -> Select[Any]:
    """Return the query for all hosts: with the VMs of `:slice`, and where `:image0` and so on are.

    It is made once: that takes as long as to carry it out.
    """
    mine = (
        select(vm.c.host, func.aggregate_strings(vm.c.name, ",").label("vms"))
        .where(vm.c.slice == bindparam("slice"), vm.c.host.is_not(None))
        .group_by(vm.c.host)
        .subquery()
    )
    # An image is where a VM was made of it: one probe of an index for each host.
    there = [
        exists().where(vm.c.image_checksum == bindparam(f"image{n}"), vm.c.host == host.c.name)
        for n in range(images)
    ]
    room = [host.c[f"{size}_{what}"] for what in ("used", "limit") for size in SIZES]
    about = (host.c.name, host.c.island, host.c.up, host.c.draining)
    return (
        select(*about, *room, mine.c.vms, *there)
        .outerjoin(mine, mine.c.host == host.c.name)
        .where(host.c.configured)
    )


async def snapshot(slice_name: str, images: Iterable[str], transaction: Transaction) -> Hosts:
    """Return every configured host as placement sees it for VMs of *slice_name* with *images*."""
    known = sorted(set(images))
    named = {f"image{n}": image for n, image in enumerate(known)}
    found = await transaction.execute(_look(len(known)), [{"slice": slice_name, **named}])
    rows = found.all()
    if not rows:
        return Hosts.of(())
    names, islands, up, draining, *more = zip(*rows, strict=True)
    room, vms, there = more[:6], more[6], more[7:]
    states = [state_of(up=one, draining=other) for one, other in zip(up, draining, strict=True)]
    has = [tuple(each.split(",")) if each else () for each in vms]
    lying = [tuple(compress(known, each)) for each in zip(*there, strict=True)]
    return Hosts.of(map(HostRow, names, islands, states, *room, has, lying))


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
    hosts = await snapshot(slice_name, images, transaction)
    # First past the hosts that others are taking room on; if none is left, after them. Whoever has
    # passed the same one looks further and further apart.
    passing, passed = True, 0
    while True:
        # Not a secret.
        beyond = random.randrange(1 << passed)  # noqa: S311
        try:
            chosen = placement.place(hosts, wants, policy, beyond)
        except Refused:
            if not passing:
                raise
            passing, passed = False, 0
            hosts = await snapshot(slice_name, images, transaction)
            continue
        claims = [
            Claim(host=name, cpu=want.cpu, ram=want.ram, disk=want.disk)
            for name, want in zip(chosen, wants, strict=True)
        ]
        full = await _taken(_total(claims), transaction, passing=passing)
        if full is None:
            return chosen
        if passing:
            hosts, passed = hosts.without(full), min(passed + 2, FURTHEST)
        else:
            hosts = await snapshot(slice_name, images, transaction)


async def _taken(
    total: Mapping[str, tuple[int, int, int]], transaction: Transaction, *, passing: bool
) -> str | None:
    """Take room on every host, or on none: then return one that had to be passed."""
    try:
        async with transaction.savepoint() if len(total) > 1 else nullcontext():
            # In name order, so that two transactions cannot wait for each other.
            for name in sorted(total):
                await _take(name, total[name], _TAKE[passing], transaction)
    except _Passed as passed:
        return str(passed)
    return None


async def _take(
    name: str, amounts: tuple[int, int, int], statement: Update, transaction: Transaction
) -> None:
    more = {f"more_{size}": amount for size, amount in zip(SIZES, amounts, strict=True)}
    if (await transaction.execute(statement, [{"on": name, **more}])).rowcount != 1:
        raise _Passed(name)


def _taking(*, passing: bool) -> Update:
    """Return the statement that takes so much more on one host, if it is there."""
    used = {f"{size}_used": host.c[f"{size}_used"] + bindparam(f"more_{size}") for size in SIZES}
    fits = [used[f"{size}_used"] <= host.c[f"{size}_limit"] for size in SIZES]
    here = select(host.c.name).where(host.c.name == bindparam("on"), *fits)
    # The key stays: who makes a VM there holds on to that.
    free = here.with_for_update(key_share=True, skip_locked=passing).scalar_subquery()
    return update(host).where(host.c.name == free).values(used)


_TAKE = {passing: _taking(passing=passing) for passing in (True, False)}


async def grow(vm_name: str, more: Claim, transaction: Transaction) -> None:
    """Take *more* room for a VM on the host that it is on, drained or not.

    Raises `Refused` (`no_valid_host`, with details as of a placement).
    """
    if await _taken(_total([more]), transaction, passing=False) is None:
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
    total = _total(claims)
    # In name order, as `_taken`.
    for name in sorted(total):
        used = {
            f"{size}_used": host.c[f"{size}_used"] - amount
            for size, amount in zip(SIZES, total[name], strict=True)
        }
        await transaction.execute(update(host).where(host.c.name == name).values(used))


def _total(claims: Iterable[Claim]) -> Mapping[str, tuple[int, int, int]]:
    total: dict[str, tuple[int, int, int]] = {}
    for one in claims:
        cpu, ram, disk = total.get(one.host, (0, 0, 0))
        total[one.host] = (cpu + one.cpu, ram + one.ram, disk + one.disk)
    return total
