"""The story of `vm.resize`.

Its row says the larger of old and new, and the host's room is claimed for it, until it is settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import update

from ccfd import documents
from ccfd.errors import Refused
from ccfd.handlers import one_vm, vm_choice
from ccfd.handlers.layout import Layout
from ccfd.model.network import BridgeChange
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.model.vm import Redefinition
from ccfd.requests.events import VmResize
from ccfd.sched import claims
from ccfd.sched.claims import Claim
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.steps import Steps, each, in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePlan:
    """A VM before and after, and its slice. `running`: whether it is started again."""

    slice: PlannedSlice
    before: PlannedVm
    after: PlannedVm
    running: bool

    @property
    def larger(self) -> PlannedVm:
        """The VM with what it may need on the way: what is claimed for it."""
        return larger(self.before, self.after)


class ResizeVm(Handler[VmResize, ResizePlan]):
    """Give a VM the size of another flavor; one that runs is shut down and started again.

    Until its disk grows all is undone when something fails; a disk that has grown stays so.
    """

    event = "vm.resize"
    body = VmResize
    plan = ResizePlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: VmResize, transaction: Transaction) -> str:
        """Return the key of the VM's slice."""
        return await one_vm.key_of(body.vm, transaction)

    async def decide(self, body: VmResize, transaction: Transaction) -> ResizePlan | Done:
        """Claim what the VM needs more."""
        found = await one_vm.find(body.vm, transaction)
        before, state = found.vm, found.row.state
        if state not in ("running", "shutoff", "crashed"):
            raise Refused("invalid_state", f"the VM {body.vm} is {state}: start it or stop it")
        if found.row.snapshots:
            raise Refused("invalid_state", f"the VM {body.vm} has snapshots: delete them first")
        size = await vm_choice.flavor_size(body.flavor, transaction)
        if size.disk < before.disk:
            raise Refused(
                "invalid_state",
                f"the VM {body.vm} has a disk of {before.disk} GiB, {body.flavor} one of"
                f" {size.disk}: a disk never becomes smaller",
            )
        after = replace(
            before,
            flavor=body.flavor,
            cpu=size.cpu,
            ram=size.ram,
            disk=size.disk,
            bandwidth=vm_choice.limit(before.kind, size),
        )
        if after == before:
            return Done(await documents.COLLECTIONS["vms"].one(body.vm, transaction))
        plan = ResizePlan(slice=found.slice, before=before, after=after, running=state == "running")
        await claims.grow(before.name, difference(plan.larger, before), transaction)
        await _write(plan.larger, transaction)
        return plan

    def steps(self, plan: ResizePlan) -> Steps:
        """List what will happen, in order."""
        layout, on = self._layout, [plan.before] if plan.running else []
        (before,) = layout.machines(plan.slice, [plan.before])
        (after,) = layout.machines(plan.slice, [plan.after])
        changed = (
            each("interrupt-vm", layout.starts(plan.slice, on)),
            each("redefine-vm", [Redefinition(before=before, after=after)])
            + each("change-bridge", _bridge_changes(layout, plan)),
        )
        started = each("start-vm", layout.starts(plan.slice, [plan.after] if plan.running else []))
        if plan.after.disk == plan.before.disk:
            return in_order(*changed, started)
        grown = each("grow-disk", layout.disks(plan.slice, [plan.after]))
        return in_order(*changed, then=(grown, started))

    async def settle(
        self, plan: ResizePlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Give back what it does not need any more."""
        vm = plan.after.id
        await claims.free([difference(plan.larger, plan.after)], transaction)
        await _write(plan.after, transaction)
        if plan.running:
            await vm_choice.observe([vm], values[-1:], transaction)
        return await documents.COLLECTIONS["vms"].one(vm, transaction)

    async def forget(
        self, plan: ResizePlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Have it be as it was."""
        await claims.free([difference(plan.larger, plan.before)], transaction)
        await _write(plan.before, transaction)
        return {}


def _bridge_changes(layout: Layout, plan: ResizePlan) -> list[BridgeChange]:
    """List what gives the VM's port another bandwidth: also one that is off has it."""
    others = tuple(vm for vm in plan.slice.vms if vm.id != plan.after.id)
    before, after = (
        layout.bridges(replace(plan.slice, vms=(*others, vm))) for vm in (plan.before, plan.after)
    )
    return [
        BridgeChange(before=old, after=new)
        for old, new in zip(before, after, strict=True)
        if old != new
    ]


def larger(before: PlannedVm, after: PlannedVm) -> PlannedVm:
    """Return *after* with the larger of both in each size: pure."""
    sizes = ("cpu", "ram", "disk")
    return replace(
        after, **{size: max(getattr(before, size), getattr(after, size)) for size in sizes}
    )


def difference(larger: PlannedVm, smaller: PlannedVm) -> Claim:
    """Return the room that *larger* takes beyond that of *smaller*: pure."""
    return Claim(
        host=larger.host,
        cpu=larger.cpu - smaller.cpu,
        ram=larger.ram - smaller.ram,
        disk=larger.disk - smaller.disk,
    )


async def _write(vm: PlannedVm, transaction: Transaction) -> None:
    await transaction.execute(
        update(tables.vm)
        .where(tables.vm.c.id == vm.id)
        .values(flavor=vm.flavor, cpu=vm.cpu, ram=vm.ram, disk=vm.disk, bandwidth=vm.bandwidth)
    )
