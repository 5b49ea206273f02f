"""The story of `slice.update`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Row

from ccfd.errors import Refused
from ccfd.handlers import (
    control_layout,
    controller_choice,
    monitoring_choice,
    vm_choice,
    vm_steps,
)
from ccfd.handlers.layout import Layout
from ccfd.handlers.slice_events import document, planned_slice
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.requests.events import SliceUpdate
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.steps import Steps, each, in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    """The slice as it was and as it shall be; `was` is the state of the VM that is deleted."""

    before: PlannedSlice
    after: PlannedSlice
    was: str | None = None

    @property
    def comes(self) -> tuple[PlannedVm, ...]:
        """The controller's VM that is made."""
        return tuple(vm for vm in self.after.vms if vm not in self.before.vms)

    @property
    def goes(self) -> tuple[PlannedVm, ...]:
        """The controller's VM that is deleted."""
        return tuple(vm for vm in self.before.vms if vm not in self.after.vms)


class UpdateSlice(Handler[SliceUpdate, UpdatePlan]):
    """Change a slice's description, its end, its controller, or who is told of its traffic.

    What is only told of the slice is changed at once, also while a host is away; its bridges
    learn of it by the next sweep.
    """

    event = "slice.update"
    body = SliceUpdate
    plan = UpdatePlan

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout(settings)

    async def key(self, body: SliceUpdate, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceUpdate, transaction: Transaction) -> UpdatePlan | Done:
        """Decide what the slice shall be."""
        row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == body.slice).with_for_update()
        )
        if row is None:
            raise Refused("slice_not_found", f"there is no slice {body.slice}")
        if row.state not in ("active", "stopped"):
            raise Refused("invalid_state", f"the slice {body.slice} is {row.state}")
        before = await planned_slice(row, transaction)
        after = await self._changed(before, row, body, transaction)
        if (after.controller, after.monitoring) == (before.controller, before.monitoring):
            await _store(after, transaction)
            return Done(await document(body.slice, transaction))
        plan = UpdatePlan(before=before, after=after)
        if plan.goes:
            # It is on its way: should the way end before its end, the sweep deletes it.
            (gone,) = plan.goes
            state = tables.vm.c.state
            was = await transaction.scalar(select(state).where(tables.vm.c.id == gone.id))
            await vm_choice.set_state([gone.id], "deleting", transaction)
            await _point(after, transaction)
            plan = replace(plan, was=was)
        return plan

    async def _changed(
        self, before: PlannedSlice, row: Row[Any], body: SliceUpdate, transaction: Transaction
    ) -> PlannedSlice:
        after = before
        if body.description is not None:
            after = replace(after, description=body.description)
        if body.expires_in is not None:
            after = replace(after, expires_at=transaction.now + timedelta(seconds=body.expires_in))
        if "monitoring" in body.model_fields_set:
            told = monitoring_choice.of_tenant(body.monitoring, self._settings)
            after = replace(after, monitoring=told)
        if "controller" not in body.model_fields_set:
            return after
        if body.controller is not None and body.controller.image is not None:
            return await self._with_vm(after, row, body.controller.image, transaction)
        known = before.controller.vm if before.controller is not None else None
        return replace(
            after,
            vms=tuple(vm for vm in before.vms if vm.id != known),
            controller=controller_choice.of_tenant(body.controller, self._settings),
        )

    async def _with_vm(
        self, before: PlannedSlice, row: Row[Any], image: str, transaction: Transaction
    ) -> PlannedSlice:
        """Give the slice a controller from *image*; one that it has is left."""
        known = before.controller.vm if before.controller is not None else None
        if known is not None:
            if any(vm.id == known and vm.image.name == image for vm in before.vms):
                return before
            raise Refused(
                "invalid_state",
                f"the slice {before.name} has the controller {known}: detach it first"
                " (controller null)",
            )
        if row.state != "active":
            raise Refused("invalid_state", f"the slice {before.name} is {row.state}, not active")
        vm = await controller_choice.make(
            before.name, row.island, image, self._settings, transaction
        )
        return replace(before, vms=(*before.vms, vm), controller=controller_choice.of_vm(vm))

    def steps(self, plan: UpdatePlan) -> Steps:
        """List what will happen, in order; a controller goes when nothing dials it any more."""
        layout, before, after = self._layout, plan.before, plan.after
        return in_order(
            each("join-control", control_layout.grown(layout, before, after))
            + each("fetch-image", layout.images(plan.comes)),
            each("add-ports", control_layout.taps(layout, after, plan.comes))
            + each("make-disk", layout.disks(after, plan.comes)),
            each("boot", layout.starts(after, plan.comes)),
            vm_steps.controlled(layout, before, after),
            then=(
                each("destroy-vm", layout.machines(before, plan.goes)),
                each("remove-disk", layout.disks(before, plan.goes))
                + each("remove-ports", control_layout.taps(layout, before, plan.goes))
                + each("leave-control", control_layout.grown(layout, after, before)),
            ),
        )

    async def settle(
        self,
        plan: UpdatePlan,
        values: Sequence[dict[str, Any] | None],
        transaction: Transaction,
    ) -> dict[str, Any]:
        """Store what the slice is now."""
        await vm_choice.set_state([vm.id for vm in plan.comes], "running", transaction)
        await _drop(plan.goes, transaction)
        await _store(plan.after, transaction)
        return await document(plan.after.name, transaction)

    async def forget(
        self, plan: UpdatePlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave the slice as it was."""
        await _drop(plan.comes, transaction)
        if plan.was is not None:
            await vm_choice.set_state([vm.id for vm in plan.goes], plan.was, transaction)
            await _point(plan.before, transaction)
        return {}


async def _drop(vms: Sequence[PlannedVm], transaction: Transaction) -> None:
    """Forget VMs of which nothing is left on a host."""
    await vm_choice.release(vms, transaction)
    gone = [vm.id for vm in vms]
    await transaction.execute(delete(tables.vm).where(tables.vm.c.id.in_(gone)))


async def _point(planned: PlannedSlice, transaction: Transaction) -> None:
    """Write what the slice's bridges shall dial."""
    dialled = controller_choice.to_row(planned.controller)
    mine = tables.slices.c.name == planned.name
    await transaction.execute(update(tables.slices).where(mine).values(controller=dialled))


async def _store(after: PlannedSlice, transaction: Transaction) -> None:
    """Write what can be changed; a new end is announced anew."""
    slices = tables.slices
    row = await transaction.one(select(slices).where(slices.c.name == after.name))
    assert row is not None
    values: dict[str, Any] = {
        "description": after.description,
        "controller": controller_choice.to_row(after.controller),
        "monitoring": monitoring_choice.to_row(after.monitoring),
        "expires_at": after.expires_at,
    }
    if row.expires_at != after.expires_at:
        values["expiry_announced"] = False
    await transaction.execute(update(slices).where(slices.c.name == after.name).values(values))
