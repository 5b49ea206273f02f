"""The story of `slice.create` and `slice.delete`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Row

from ccfd import documents
from ccfd.errors import Refused
from ccfd.handlers import (
    control_layout,
    controller_choice,
    gateway_choice,
    monitoring_choice,
    vm_choice,
)
from ccfd.handlers.gateway_layout import gateways
from ccfd.handlers.layout import Layout
from ccfd.ipam import pools, subnets
from ccfd.model.slice import PlannedSlice
from ccfd.requests.events import SliceCreate, SliceName
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.vt.ssh_keys import KeyPair, SshKeys
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.intervene import close
from ccfd.workflow.steps import Steps, each, in_order, only_forward

VNI_POOL = "vni"

CHANGES = frozenset(
    {
        "slice.start",
        "slice.stop",
        "slice.update",
        "controller.create",
        "vm.start",
        "vm.stop",
        "vm.reboot",
        "vm.suspend",
        "vm.resume",
        "vm.resize",
        "vm.snapshot_create",
        "vm.snapshot_revert",
        "vm.snapshot_delete",
    }
)
"""What is asked of a slice, or a VM, that is there, and has no point when the slice goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePlan:
    """What `slice.create` decided.

    `reserved_until` is set where a reservation was taken over; `confirmed` says that the owner had
    confirmed it before.
    """

    slice: PlannedSlice
    reserved_until: datetime | None
    confirmed: bool = False


class CreateSlice(Handler[SliceCreate, CreatePlan]):
    """Give a tenant its subnet, switches, DHCP server, gateway and VMs."""

    event = "slice.create"
    body = SliceCreate
    plan = CreatePlan

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout(settings)
        self._ssh_keys = SshKeys(settings.slices.ssh_key_secrets)

    async def key(self, body: SliceCreate, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceCreate, transaction: Transaction) -> CreatePlan:
        """Take a subnet, a VNI, and all that the VMs need."""
        if await transaction.one(select(tables.slices).where(tables.slices.c.name == body.slice)):
            raise Refused("slice_exists", f"there is a slice {body.slice}: delete it first")
        net, before = await self._subnet(body, transaction)
        island = await subnets.island_of(net, transaction)
        vni = await pools.take(VNI_POOL, body.slice, transaction)
        if vni is None:
            raise Refused("network_exhausted", "every VNI of [slices] vni is in use")
        outside = None
        if body.gateway:
            outside = await gateway_choice.take(body.slice, island, transaction)
        policy = self._settings.scheduler.placement
        vms = await vm_choice.choose(body.slice, island, vni, body.vms, transaction, policy=policy)
        controller = controller_choice.of_tenant(body.controller, self._settings)
        if body.controller is not None and body.controller.image is not None:
            vm = await controller_choice.make(
                body.slice, island, body.controller.image, self._settings, transaction
            )
            vms, controller = (*vms, vm), controller_choice.of_vm(vm)
        pair = self._ssh_keys.make(body.slice)
        lasts = timedelta(seconds=body.expires_in or self._settings.slices.expires_in)
        planned = PlannedSlice(
            name=body.slice,
            vni=vni,
            address=subnets.gateway_of(net),
            dhcp=body.dhcp,
            ssh_keys=body.ssh_keys,
            ssh_key=pair.public if pair else None,
            vms=vms,
            controller=controller,
            gateway=outside,
            monitoring=monitoring_choice.of_tenant(body.monitoring, self._settings),
            description=body.description,
            project=body.project,
            user=body.user,
            created_at=transaction.now,
            expires_at=transaction.now + lasts,
        )
        await insert_slice(planned, island, "creating", pair, transaction)
        return CreatePlan(
            slice=planned,
            reserved_until=before.expires_at if before is not None else None,
            confirmed=before is not None and before.state == "confirmed",
        )

    async def _subnet(
        self, body: SliceCreate, transaction: Transaction
    ) -> tuple[Row[Any], Row[Any] | None]:
        """Confirm the reservation, or reserve and confirm now; return it after and before."""
        known = await subnets.find(body.slice, transaction)
        if known is None:
            await subnets.reserve(
                body.slice,
                body.ipcount,
                self._settings.ipam.timeout,
                body.island or "default",
                transaction,
            )
        else:
            island = await subnets.island_of(known, transaction)
            if body.island not in (None, island):
                raise Refused(
                    "invalid_state", f"the subnet of {body.slice} lies on island {island}"
                )
        return await subnets.confirm(body.slice, transaction), known

    def steps(self, plan: CreatePlan) -> Steps:
        """List what will happen, in order."""
        planned, layout = plan.slice, self._layout
        node, *others = layout.bridges(planned)
        return in_order(
            each("open-namespace", [layout.namespace(planned)])
            + each("make-bridge", others)
            + each("join-control", control_layout.parts(layout, planned))
            + each("fetch-image", layout.images(planned.vms)),
            # The node's bridge comes after the namespace: a leg made anew needs plugging in.
            each("make-bridge", [node])
            + each("serve-dhcp", layout.dhcp(planned))
            + each("open-gateway", gateways(layout, planned))
            + each("add-ports", control_layout.taps(layout, planned, planned.vms))
            + each("make-disk", layout.disks(planned, planned.vms)),
            each("boot", layout.starts(planned, planned.vms)),
        )

    async def settle(
        self,
        plan: CreatePlan,
        values: Sequence[dict[str, Any] | None],
        transaction: Transaction,
    ) -> dict[str, Any]:
        """Say that the slice is there."""
        name = plan.slice.name
        await vm_choice.set_state([vm.id for vm in plan.slice.vms], "running", transaction)
        await transaction.execute(
            update(tables.slices).where(tables.slices.c.name == name).values(state="active")
        )
        return await document(name, transaction)

    async def forget(
        self, plan: CreatePlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave no slice; a subnet that the owner had before is as it was."""
        await release_all(plan.slice, transaction)
        if plan.reserved_until is not None:
            await subnets.unconfirm(plan.slice.name, plan.reserved_until, transaction)
        elif not plan.confirmed:
            await subnets.release(plan.slice.name, transaction)
        return {}


class DeleteSlice(Handler[SliceName, PlannedSlice]):
    """Take all of a slice away; whatever is being made for it is cancelled first."""

    event = "slice.delete"
    body = SliceName
    plan = PlannedSlice
    cancels = frozenset({"slice.create", "vm.create"}) | CHANGES

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: SliceName, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceName, transaction: Transaction) -> PlannedSlice | Done:
        """Mark the slice and its VMs as going; from here it only goes forward."""
        row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == body.slice).with_for_update()
        )
        if row is None:
            return await self._cancelled(body.slice, transaction)
        planned = await planned_slice(row, transaction)
        await vm_choice.set_state([vm.id for vm in planned.vms], "deleting", transaction)
        await transaction.execute(
            update(tables.slices).where(tables.slices.c.name == row.name).values(state="deleting")
        )
        return planned

    async def _cancelled(self, name: str, transaction: Transaction) -> Done:
        """Be content where this deletion has cancelled the slice's creation."""
        request = tables.request
        latest = await transaction.one(
            select(request.c.cancelled)
            .where(request.c.key == f"slice:{name}", request.c.ended_at.is_not(None))
            .order_by(request.c.seq.desc())
            .limit(1)
        )
        if latest is None or not latest.cancelled:
            raise Refused("slice_not_found", f"there is no slice {name}")
        return Done({"slice": name, "deleted": True})

    def steps(self, plan: PlannedSlice) -> Steps:
        """List what will happen, in order."""
        layout = self._layout
        return only_forward(
            each("destroy-vm", layout.machines(plan, plan.vms))
            + each("stop-dhcp", layout.dhcp(plan))
            + each("close-gateway", gateways(layout, plan)),
            each("remove-disk", layout.disks(plan, plan.vms))
            + each("remove-bridge", layout.bridges(plan))
            + each("leave-control", control_layout.whole(layout, plan))
            + each("close-namespace", [layout.namespace(plan)]),
        )

    async def settle(
        self,
        plan: PlannedSlice,
        values: Sequence[dict[str, Any] | None],
        transaction: Transaction,
    ) -> dict[str, Any]:
        """Give everything back."""
        await release_all(plan, transaction)
        await subnets.release(plan.name, transaction)
        await close(tables.request.c.key == f"slice:{plan.name}", transaction)
        return {"slice": plan.name, "deleted": True}


async def insert_slice(
    planned: PlannedSlice,
    island: str,
    state: str,
    pair: KeyPair | None,
    transaction: Transaction,
) -> None:
    """Make the slice's row; its subnet, VNI and VMs are the caller's business.

    The row is the only place that has the private half of the slice's SSH key pair, sealed.
    """
    await transaction.execute(
        insert(tables.slices).values(
            name=planned.name,
            state=state,
            island=island,
            vni=planned.vni,
            dhcp=planned.dhcp,
            description=planned.description,
            project=planned.project,
            user=planned.user,
            gateway=gateway_choice.to_row(planned),
            controller=controller_choice.to_row(planned.controller),
            monitoring=monitoring_choice.to_row(planned.monitoring),
            ssh_keys=list(planned.ssh_keys),
            ssh_public_key=pair.public if pair else None,
            ssh_sealed_key=pair.sealed if pair else None,
            created_at=planned.created_at,
            expires_at=planned.expires_at,
        )
    )


async def planned_slice(row: Row[Any], transaction: Transaction) -> PlannedSlice:
    """Return a slice of the database as it was decided."""
    net = await subnets.find(row.name, transaction)
    assert net is not None, "a slice has a subnet"
    return PlannedSlice(
        name=row.name,
        vni=row.vni,
        address=subnets.gateway_of(net),
        dhcp=row.dhcp,
        ssh_keys=tuple(row.ssh_keys),
        ssh_key=row.ssh_public_key,
        vms=await vm_choice.planned(row.name, transaction),
        controller=controller_choice.of_row(row.controller),
        gateway=gateway_choice.of_row(row.gateway),
        monitoring=monitoring_choice.of_row(row.monitoring),
        description=row.description,
        project=row.project,
        user=row.user,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def release_all(planned: PlannedSlice, transaction: Transaction) -> None:
    """Give back the slice's claims and delete its rows; its subnet is the caller's business."""
    await vm_choice.release(planned.vms, transaction)
    await transaction.execute(delete(tables.vm).where(tables.vm.c.slice == planned.name))
    await transaction.execute(delete(tables.slices).where(tables.slices.c.name == planned.name))
    await gateway_choice.give_back(planned, transaction)
    await pools.give_back(VNI_POOL, planned.vni, transaction)


async def document(name: str, transaction: Transaction) -> dict[str, Any]:
    """Return the slice's document."""
    return await documents.COLLECTIONS["slices"].one(name, transaction)
