"""The story of `vm.create` and `vm.delete`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import and_, delete, insert, select, update
from sqlalchemy.engine import Row

from ccfd import documents
from ccfd.errors import CcfdError, Refused
from ccfd.handlers import one_vm, vm_choice, vm_steps
from ccfd.handlers.layout import Layout
from ccfd.handlers.slice_events import planned_slice
from ccfd.handlers.vm_steps import VmPlan
from ccfd.ipam import subnets
from ccfd.requests.events import VmCreate, VmDelete
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.intervene import close
from ccfd.workflow.steps import Steps


class CreateVm(Handler[VmCreate, VmPlan]):
    """Add a VM to a slice, and the slice's network to the VM's host."""

    event = "vm.create"
    body = VmCreate
    plan = VmPlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)
        self._policy = settings.scheduler.placement

    async def key(self, body: VmCreate, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: VmCreate, transaction: Transaction) -> VmPlan:
        """Take a host's room and an address of the slice's subnet."""
        row = await transaction.one(select(tables.slices).where(tables.slices.c.name == body.slice))
        if row is None:
            net = await subnets.find(body.slice, transaction)
            if net is not None and net.state != "confirmed":
                raise Refused(
                    "subnet_expired",
                    f"{body.slice} has only the {net.state} subnet {subnets.gateway_of(net)}"
                    " and no slice",
                )
            raise Refused("slice_not_found", f"there is no slice {body.slice}")
        if row.state != "active":
            raise Refused("invalid_state", f"the slice {body.slice} is {row.state}, not active")
        without = await planned_slice(row, transaction)
        (vm,) = await vm_choice.choose(
            body.slice, row.island, row.vni, [body], transaction, policy=self._policy
        )
        return VmPlan(vm=vm, without=without)

    def steps(self, plan: VmPlan) -> Steps:
        """List what will happen, in order."""
        return vm_steps.coming(self._layout, plan)

    async def settle(
        self, plan: VmPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Say that the VM runs."""
        await vm_choice.set_state([plan.vm.id], "running", transaction)
        return await documents.COLLECTIONS["vms"].one(plan.vm.id, transaction)

    async def forget(
        self, plan: VmPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave the VM's record, and nothing that it held."""
        await vm_choice.release([plan.vm], transaction)
        await transaction.execute(
            update(tables.vm)
            .where(tables.vm.c.id == plan.vm.id)
            .values(state="failed", error=error, host=None, ip=None, mac=None)
        )
        return {"vm": plan.vm.id}

    async def refuse(
        self, body: VmCreate, error: CcfdError, transaction: Transaction
    ) -> dict[str, Any]:
        """Leave a record of the VM that could not be, where its slice (or owner) is known."""
        if error.code in ("slice_not_found", "cancelled"):
            return {}
        vm = str(uuid4())
        await transaction.execute(
            insert(tables.vm).values(
                id=vm,
                slice=body.slice,
                name=body.name or f"vm-{vm[:8]}",
                kind="slice",
                state="failed",
                cpu=body.cpu,
                ram=body.ram,
                disk=body.disk,
                bandwidth=body.bandwidth,
                flavor=body.flavor,
                dhcp=body.dhcp,
                error=error.document(),
                created_at=transaction.now,
            )
        )
        return {"vm": vm}


class DeleteVm(Handler[VmDelete, VmPlan]):
    """Take a VM away, and the slice's network from its host where no other VM needs it.

    A slice whose controller it was forwards by itself again.
    """

    event = "vm.delete"
    body = VmDelete
    plan = VmPlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: VmDelete, transaction: Transaction) -> str:
        """Return the key of the VM's slice."""
        return await one_vm.key_of(body.vm, transaction)

    async def decide(self, body: VmDelete, transaction: Transaction) -> VmPlan | Done:
        """Mark the VM as going; from here it only goes forward."""
        row = await transaction.one(
            select(tables.vm).where(tables.vm.c.id == body.vm).with_for_update()
        )
        if row is None:
            raise Refused("vm_not_found", f"there is no VM {body.vm}")
        self.check(row)
        slice_row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == row.slice)
        )
        if row.host is None or slice_row is None:
            await transaction.execute(delete(tables.vm).where(tables.vm.c.id == row.id))
            return Done({"vm": row.id, "deleted": True})
        planned = await planned_slice(slice_row, transaction)
        vm = next(vm for vm in planned.vms if vm.id == row.id)
        await vm_choice.set_state([vm.id], "deleting", transaction)
        others = tuple(other for other in planned.vms if other.id != vm.id)
        without = replace(planned, vms=others)
        if planned.controller is not None and planned.controller.vm == vm.id:
            without = replace(without, controller=None)
            await transaction.execute(
                update(tables.slices)
                .where(tables.slices.c.name == row.slice)
                .values(controller=None)
            )
        return VmPlan(vm=vm, without=without)

    def check(self, row: Row[Any]) -> None:
        """Raise `Refused` where this event is not for such a VM."""

    def steps(self, plan: VmPlan) -> Steps:
        """List what will happen, in order."""
        return vm_steps.going(self._layout, plan)

    async def settle(
        self, plan: VmPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Give back what it held."""
        await vm_choice.release([plan.vm], transaction)
        await transaction.execute(delete(tables.vm).where(tables.vm.c.id == plan.vm.id))
        creation = tables.request.c.plan["vm"]["id"].as_string() == plan.vm.id
        key = tables.request.c.key == f"slice:{plan.without.name}"
        made = tables.request.c.type.in_((CreateVm.event, "controller.create"))
        await close(and_(key, made, creation), transaction)
        return {"vm": plan.vm.id, "deleted": True}
