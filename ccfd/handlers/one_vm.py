"""The VM that a request names: its key, its row, its slice."""

from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.handlers.slice_events import planned_slice
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.store import tables
from ccfd.store.database import Transaction


class OneVm(NamedTuple):
    """A VM that holds something on a host, and its slice, as they were decided; and their rows."""

    vm: PlannedVm
    slice: PlannedSlice
    row: Row[Any]
    slice_row: Row[Any]


async def key_of(vm: str, transaction: Transaction) -> str:
    """Return the key of the slice of the VM with the id *vm*; one of its own for an unknown one."""
    name = await transaction.scalar(select(tables.vm.c.slice).where(tables.vm.c.id == vm))
    return f"vm:{vm}" if name is None else f"slice:{name}"


async def find(vm: str, transaction: Transaction) -> OneVm:
    """Return the VM with the id *vm*, its row locked.

    Raises `Refused`: `vm_not_found`; `invalid_state` for one that has failed or is going.
    """
    row = await transaction.one(select(tables.vm).where(tables.vm.c.id == vm).with_for_update())
    if row is None:
        raise Refused("vm_not_found", f"there is no VM {vm}")
    slice_row = await transaction.one(
        select(tables.slices).where(tables.slices.c.name == row.slice)
    )
    if row.state == "failed" or row.host is None or slice_row is None:
        raise Refused("invalid_state", f"the VM {vm} has failed: delete it, and create another")
    if "deleting" in (row.state, slice_row.state):
        raise Refused("invalid_state", f"the VM {vm} is being deleted")
    planned = await planned_slice(slice_row, transaction)
    found = next(one for one in planned.vms if one.id == vm)
    return OneVm(vm=found, slice=planned, row=row, slice_row=slice_row)
