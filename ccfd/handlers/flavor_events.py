"""The story of `flavor.create` and `flavor.delete`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select, update

from ccfd import documents
from ccfd.errors import Refused
from ccfd.requests.events import FlavorCreate, FlavorName
from ccfd.store.database import Transaction
from ccfd.store.tables import flavor, vm
from ccfd.workflow.handler import Child, Done, Handler
from ccfd.workflow.steps import Steps, in_order


class CreateFlavor(Handler[FlavorCreate, None]):
    """Give a size a name."""

    event = "flavor.create"
    body = FlavorCreate

    async def key(self, body: FlavorCreate, transaction: Transaction) -> str:
        """Return the flavor's key."""
        return f"flavor:{body.flavor}"

    async def decide(self, body: FlavorCreate, transaction: Transaction) -> Done:
        """Store it; a name that was deleted can be given anew."""
        known = await transaction.one(select(flavor).where(flavor.c.name == body.flavor))
        if known is not None and not known.deleted:
            raise Refused("flavor_exists", f"there is a flavor {body.flavor}: delete it first")
        values = {**body.model_dump(exclude={"flavor"}), "deleted": False}
        await transaction.execute(
            insert(flavor).values(name=body.flavor, **values)
            if known is None
            else update(flavor).where(flavor.c.name == body.flavor).values(values)
        )
        return Done(await documents.COLLECTIONS["flavors"].one(body.flavor, transaction))


@dataclass(frozen=True, slots=True)
class Doomed:
    """A VM of the flavor, and the request that deletes it."""

    vm: str
    name: str
    slice: str
    request: str


@dataclass(frozen=True, slots=True)
class DeleteFlavorPlan:
    """The flavor that goes, and its VMs."""

    flavor: str
    vms: tuple[Doomed, ...]


class DeleteFlavor(Handler[FlavorName, DeleteFlavorPlan]):
    """Delete a flavor with its VMs, each by a request of its own in its slice's order.

    From the decision on nobody gets a VM of it. When a VM cannot be deleted, or the request is
    cancelled, the flavor is there again; VMs that are deleted stay so.
    """

    event = "flavor.delete"
    body = FlavorName
    plan = DeleteFlavorPlan
    # Somebody else has deleted it meanwhile: that is what is wanted.
    content_with = frozenset({"vm_not_found"})

    async def key(self, body: FlavorName, transaction: Transaction) -> str:
        """Return the flavor's key."""
        return f"flavor:{body.flavor}"

    async def decide(self, body: FlavorName, transaction: Transaction) -> DeleteFlavorPlan | Done:
        """Mark the flavor as gone, and choose the VMs that go with it."""
        marked = await transaction.one(_mark(body.flavor, deleted=True).returning(flavor.c.name))
        if marked is None:
            raise Refused("flavor_not_found", f"no flavor is called {body.flavor}")
        rows = await transaction.all(
            select(vm.c.id, vm.c.name, vm.c.slice)
            .where(vm.c.flavor == body.flavor)
            .order_by(vm.c.slice, vm.c.name, vm.c.id)
        )
        if not rows:
            return Done({"flavor": body.flavor, "deleted_vms": []})
        vms = tuple(Doomed(row.id, row.name, row.slice, str(uuid4())) for row in rows)
        return DeleteFlavorPlan(body.flavor, vms)

    def children(self, plan: DeleteFlavorPlan) -> Sequence[Child]:
        """Have each VM deleted."""
        return [Child(doomed.request, "vm.delete", {"vm": doomed.vm}) for doomed in plan.vms]

    def steps(self, plan: DeleteFlavorPlan) -> Steps:
        """Have none of its own."""
        return in_order()

    async def settle(
        self,
        plan: DeleteFlavorPlan,
        values: Sequence[dict[str, Any] | None],
        transaction: Transaction,
    ) -> dict[str, Any]:
        """Name the VMs."""
        return {"flavor": plan.flavor, "deleted_vms": [doomed.vm for doomed in plan.vms]}

    async def forget(
        self, plan: DeleteFlavorPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Have the flavor again; name the VMs that are left."""
        await transaction.execute(_mark(plan.flavor, deleted=False))
        ids = [doomed.vm for doomed in plan.vms]
        rows = await transaction.all(select(vm.c.id).where(vm.c.id.in_(ids)))
        left = {row.id for row in rows}
        return {"left": [asdict(one) for one in plan.vms if one.vm in left]}


def _mark(name: str, *, deleted: bool) -> Any:
    return (
        update(flavor)
        .where(flavor.c.name == name, flavor.c.deleted.is_(not deleted))
        .values(deleted=deleted)
    )
