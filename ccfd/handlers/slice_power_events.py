"""The stories of `slice.start` and `slice.stop`: its VMs; addresses, DHCP and gateway stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.handlers import vm_choice
from ccfd.handlers.layout import Layout
from ccfd.handlers.slice_events import document, planned_slice
from ccfd.model.slice import PlannedSlice
from ccfd.model.vm import Start, Stop
from ccfd.requests.events import SliceName
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import Steps, each, in_order, only_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPlan:
    """The VMs that are started."""

    slice: str
    starts: tuple[Start, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPlan:
    """The VMs that are stopped."""

    slice: str
    stops: tuple[Stop, ...]


class StartSlice(Handler[SliceName, StartPlan]):
    """Start the VMs of a slice that are off. One that is suspended stays so."""

    event = "slice.start"
    body = SliceName
    plan = StartPlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: SliceName, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceName, transaction: Transaction) -> StartPlan:
        """See which VMs are off."""
        planned, states = await _find(body.slice, transaction)
        off = [vm for vm in planned.vms if states[vm.id] in ("shutoff", "crashed")]
        return StartPlan(slice=planned.name, starts=self._layout.starts(planned, off))

    def steps(self, plan: StartPlan) -> Steps:
        """Start them side by side; power all off again where one does not come to run."""
        return in_order(each("start-vm", plan.starts))

    async def settle(
        self, plan: StartPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store the states that were seen."""
        vms = [start.machine.vm for start in plan.starts]
        await vm_choice.observe(vms, values, transaction)
        return await _set_state(plan.slice, "active", transaction)

    async def forget(
        self, plan: StartPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Have nothing to give back."""
        return {}


class StopSlice(Handler[SliceName, StopPlan]):
    """Shut all VMs of a slice down: each guest is asked, and given its time."""

    event = "slice.stop"
    body = SliceName
    plan = StopPlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: SliceName, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceName, transaction: Transaction) -> StopPlan:
        """See which VMs are not off."""
        planned, states = await _find(body.slice, transaction)
        on = [vm for vm in planned.vms if states[vm.id] in ("running", "paused", "stopping")]
        stops = tuple(Stop(machine=machine) for machine in self._layout.machines(planned, on))
        return StopPlan(slice=planned.name, stops=stops)

    def steps(self, plan: StopPlan) -> Steps:
        """Stop them side by side."""
        return only_forward(each("stop-vm", plan.stops))

    async def settle(
        self, plan: StopPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store the states that were seen."""
        await vm_choice.observe([stop.machine.vm for stop in plan.stops], values, transaction)
        return await _set_state(plan.slice, "stopped", transaction)


async def _find(name: str, transaction: Transaction) -> tuple[PlannedSlice, dict[str, str]]:
    """Return a slice that is settled, its row locked, and its VMs' states by their ids."""
    row: Row[Any] | None = await transaction.one(
        select(tables.slices).where(tables.slices.c.name == name).with_for_update()
    )
    if row is None:
        raise Refused("slice_not_found", f"there is no slice {name}")
    if row.state not in ("active", "stopped"):
        raise Refused("invalid_state", f"the slice {name} is {row.state}")
    vms = await transaction.all(
        select(tables.vm.c.id, tables.vm.c.state).where(tables.vm.c.slice == name)
    )
    return await planned_slice(row, transaction), {vm.id: vm.state for vm in vms}


async def _set_state(name: str, state: str, transaction: Transaction) -> dict[str, Any]:
    await transaction.execute(
        update(tables.slices).where(tables.slices.c.name == name).values(state=state)
    )
    return await document(name, transaction)
