"""How room on a host is claimed and given back: in the deciding transaction, under CHECKs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, select, update

from ccfd.sched.placement import HostView
from ccfd.store.database import Transaction
from ccfd.store.tables import host, vm


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Room on a host: vCPUs, MiB, GiB."""

    host: str
    cpu: int
    ram: int
    disk: int


async def snapshot(slice_name: str, transaction: Transaction) -> list[HostView]:
    """Return every configured host as placement sees it for a VM of *slice_name*."""
    hosts = await transaction.all(select(host).where(host.c.configured).order_by(host.c.name))
    vms: dict[str, set[str]] = {}
    for row in await transaction.all(
        select(vm.c.name, vm.c.host).where(vm.c.slice == slice_name, vm.c.host.is_not(None))
    ):
        vms.setdefault(row.host, set()).add(row.name)
    return [
        HostView(
            name=row.name,
            island=row.island,
            state=state_of(up=row.up, draining=row.draining),
            cpu=row.cpu_limit - row.cpu_used,
            ram=row.ram_limit - row.ram_used,
            disk=row.disk_limit - row.disk_used,
            vms=frozenset(vms.get(row.name, ())),
        )
        for row in hosts
    ]


def state_of(*, up: bool, draining: bool) -> str:
    """Return the state of a host's document."""
    if not up:
        return "down"
    return "draining" if draining else "up"


async def claim(claims: Iterable[Claim], transaction: Transaction) -> None:
    """Take room; a host that would be overfilled fails the transaction, which is run again."""
    await _add(_total(claims), 1, transaction)


async def adopt(claims: Iterable[Claim], transaction: Transaction) -> None:
    """Note room that is taken already: where a host has less by now, its limit gives way."""
    total = _total(claims)
    for name in sorted(total):
        values: dict[str, Any] = {}
        for size, amount in zip(("cpu", "ram", "disk"), total[name], strict=True):
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
