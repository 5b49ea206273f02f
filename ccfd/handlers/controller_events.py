"""The stories of `controller.create` and `controller.delete`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Row

from ccfd import documents
from ccfd.errors import Refused
from ccfd.handlers import controller_choice, vm_choice, vm_steps
from ccfd.handlers.layout import Layout
from ccfd.handlers.slice_events import planned_slice
from ccfd.handlers.vm_events import DeleteVm
from ccfd.handlers.vm_steps import VmPlan
from ccfd.requests.events import ControllerCreate
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import Steps


class CreateController(Handler[ControllerCreate, VmPlan]):
    """Give a slice a controller of its own: a VM on the control network, which its bridges dial."""

    event = "controller.create"
    body = ControllerCreate
    plan = VmPlan

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout(settings)

    async def key(self, body: ControllerCreate, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: ControllerCreate, transaction: Transaction) -> VmPlan:
        """Take a host's room and an address of the control network."""
        row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == body.slice).with_for_update()
        )
        if row is None:
            raise Refused("slice_not_found", f"there is no slice {body.slice}")
        if row.state != "active":
            raise Refused("invalid_state", f"the slice {body.slice} is {row.state}, not active")
        if row.controller is not None:
            raise Refused(
                "invalid_state",
                f"the slice {body.slice} has a controller at {row.controller['address']}:"
                " detach it first (slice.update with controller null)",
            )
        if body.island not in (None, row.island):
            raise Refused("invalid_state", f"the slice {body.slice} lies on island {row.island}")
        without = await planned_slice(row, transaction)
        vm = await controller_choice.make(
            body.slice, row.island, body.image_name, self._settings, transaction
        )
        return VmPlan(vm=vm, without=without)

    def steps(self, plan: VmPlan) -> Steps:
        """List what will happen, in order."""
        return vm_steps.coming(self._layout, plan)

    async def settle(
        self, plan: VmPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Say that the slice has it."""
        controller = controller_choice.of_vm(plan.vm)
        await vm_choice.set_state([plan.vm.id], "running", transaction)
        await transaction.execute(
            update(tables.slices)
            .where(tables.slices.c.name == plan.without.name)
            .values(controller=controller_choice.to_row(controller))
        )
        return {
            "vm": await documents.COLLECTIONS["vms"].one(plan.vm.id, transaction),
            "ipaddr": controller.address,
            "port": controller.port,
        }

    async def forget(
        self, plan: VmPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave nothing of it."""
        await vm_choice.release([plan.vm], transaction)
        await transaction.execute(delete(tables.vm).where(tables.vm.c.id == plan.vm.id))
        return {}


class DeleteController(DeleteVm):
    """Have a slice's bridges forward by themselves, and take its controller's VM away."""

    event = "controller.delete"

    def check(self, row: Row[Any]) -> None:
        """Raise `Refused` (`invalid_state`) for a tenant's VM."""
        if row.kind != "controller":
            raise Refused("invalid_state", f"the VM {row.id} is no controller: send vm.delete")
