"""What the database says that hosts shall hold."""

from collections.abc import Set
from typing import Any

from sqlalchemy import Select, select

from ccfd.errors import CcfdError
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import Wanted
from ccfd.handlers.reconcile_things import wanted_slice
from ccfd.handlers.slice_events import planned_slice
from ccfd.handlers.vm_states import Vm
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.ledger import is_open
from ccfd.workflow.results import SLICE_KEY

SETTLED = ("active", "stopped")


async def read(layout: Layout, transaction: Transaction) -> Wanted:
    """Read what everybody shall have. Slices that a request is at work on are left alone."""
    request = tables.request
    keys = await transaction.all(select(request.c.key).where(is_open(request)).distinct())
    busy = {row.key.removeprefix(SLICE_KEY) for row in keys}
    return await _read(layout, select(tables.slices), busy, transaction)


async def read_own(layout: Layout, name: str, transaction: Transaction) -> Wanted:
    """Read, on behalf of the request whose turn it is, what the slice *name* shall have."""
    own = select(tables.slices).where(tables.slices.c.name == name).with_for_update()
    return await _read(layout, own, set(), transaction)


async def _read(
    layout: Layout, of: Select[Any], busy: Set[str], transaction: Transaction
) -> Wanted:
    vm = tables.vm
    vms = await transaction.all(select(vm.c.id, vm.c.slice, vm.c.host, vm.c.state))
    states = {row.id: row.state for row in vms}
    settled, left_alone, deleting, unplanned = {}, set(busy), set(), {}
    for row in await transaction.all(of.order_by(tables.slices.c.name)):
        if row.state not in SETTLED or row.name in busy:
            left_alone.add(row.name)
            if row.state == "deleting" and row.name not in busy:
                deleting.add(row.name)
            continue
        try:
            planned = await planned_slice(row, transaction)
            settled[row.name] = wanted_slice(layout, planned, states)
        except CcfdError as exc:
            left_alone.add(row.name)
            unplanned[row.name] = exc.message
    return Wanted(
        slices=settled,
        left_alone=frozenset(left_alone),
        deleting=frozenset(deleting),
        unplanned=unplanned,
        vms={
            row.id: Vm(slice=row.slice, host=row.host, state=row.state)
            for row in vms
            if row.host is not None
        },
        gone={row.id: row.slice for row in vms if row.host is None},
    )


REPAIRS = ("slice.repair", "orphan.remove")
"""The requests that the reconciler itself sends."""


async def asked_about(names: Set[str], transaction: Transaction) -> set[str]:
    """Return those of the slices *names* that a request was about: not one of the reconciler."""
    request = tables.request
    rows = await transaction.all(
        select(request.c.key)
        .where(
            request.c.key.in_([f"{SLICE_KEY}{name}" for name in names]),
            request.c.type.not_in(REPAIRS),
        )
        .distinct()
    )
    return {row.key.removeprefix(SLICE_KEY) for row in rows}
