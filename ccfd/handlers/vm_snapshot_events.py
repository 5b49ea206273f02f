"""The stories of `vm.snapshot_create`, `vm.snapshot_revert` and `vm.snapshot_delete`."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update

from ccfd import documents
from ccfd.errors import Refused
from ccfd.handlers import one_vm, vm_choice
from ccfd.handlers.layout import Layout
from ccfd.handlers.one_vm import OneVm
from ccfd.model.vm import Revert, Snapshot, Start, Stop
from ccfd.requests.events import VmSnapshot
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import Steps, each, in_order, only_forward

ON = frozenset({"running", "paused"})
OFF = frozenset({"shutoff", "crashed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    """A snapshot; `start` is how its VM is started, `on` whether it is not off now."""

    start: Start
    name: str
    mark: str
    on: bool

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot as its driver knows it."""
        return Snapshot(machine=self.start.machine, name=self.name, mark=self.mark)


class _OfVm(Handler[VmSnapshot, SnapshotPlan]):
    """What the three have in common."""

    body = VmSnapshot
    plan = SnapshotPlan

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: VmSnapshot, transaction: Transaction) -> str:
        """Return the key of the VM's slice."""
        return await one_vm.key_of(body.vm, transaction)

    async def decide(self, body: VmSnapshot, transaction: Transaction) -> SnapshotPlan:
        """See whether it can be; nothing is written before it has come about."""
        found = await one_vm.find(body.vm, transaction)
        if found.row.state not in ON | OFF:
            raise Refused("invalid_state", f"the VM {body.vm} is {found.row.state}")
        self.check(body.snapshot, found)
        (start,) = self._layout.starts(found.slice, [found.vm])
        return SnapshotPlan(
            start=start, name=body.snapshot, mark=str(uuid4()), on=found.row.state in ON
        )

    def check(self, name: str, found: OneVm) -> None:
        """Refuse a snapshot that the VM does not have."""
        if name not in found.row.snapshots:
            raise Refused("invalid_state", f"the VM {found.vm.id} has no snapshot {name}")

    @abstractmethod
    def steps(self, plan: SnapshotPlan) -> Steps:
        """List what will happen, in order."""


class TakeSnapshot(_OfVm):
    """Keep a VM's disk as it is now, and its memory where it is not off."""

    event = "vm.snapshot_create"

    def check(self, name: str, found: OneVm) -> None:
        """Refuse a name that the VM has used."""
        if name in found.row.snapshots:
            raise Refused(
                "invalid_state", f"the VM {found.vm.id} has a snapshot {name}: delete it first"
            )

    def steps(self, plan: SnapshotPlan) -> Steps:
        """Take it."""
        return in_order(each("take-snapshot", [plan.snapshot]))

    async def settle(
        self, plan: SnapshotPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Note it as the newest."""
        vm = plan.start.machine.vm
        return await _write(vm, [*await _names(vm, transaction), plan.name], transaction)

    async def forget(
        self, plan: SnapshotPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Have nothing to give back."""
        return {}


class RevertToSnapshot(_OfVm):
    """Have a VM be as it was: what has happened since is lost, so it only goes forward.

    It is powered off first: whoever repeats the way back finds a VM that is not off, and lets it
    be.
    """

    event = "vm.snapshot_revert"

    def check(self, name: str, found: OneVm) -> None:
        """Refuse also where the VM, if it ran then, must not run."""
        super().check(name, found)
        if found.slice_row.state == "stopped":
            raise Refused(
                "invalid_state", f"the slice {found.slice.name} is stopped: send slice.start"
            )

    def steps(self, plan: SnapshotPlan) -> Steps:
        """Power it off, then go back."""
        on = [Stop(machine=plan.start.machine, force=True)] if plan.on else []
        return only_forward(
            each("stop-vm", on), each("revert-vm", [Revert(start=plan.start, name=plan.name)])
        )

    async def settle(
        self, plan: SnapshotPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store the state that it came back in."""
        vm = plan.start.machine.vm
        await vm_choice.observe([vm], values[-1:], transaction)
        return await documents.COLLECTIONS["vms"].one(vm, transaction)


class DeleteSnapshot(_OfVm):
    """Forget a snapshot."""

    event = "vm.snapshot_delete"

    def steps(self, plan: SnapshotPlan) -> Steps:
        """Delete it."""
        return only_forward(each("delete-snapshot", [plan.snapshot]))

    async def settle(
        self, plan: SnapshotPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Forget it."""
        vm = plan.start.machine.vm
        left = [name for name in await _names(vm, transaction) if name != plan.name]
        return await _write(vm, left, transaction)


async def _names(vm: str, transaction: Transaction) -> list[str]:
    names: list[str] = await transaction.scalar(
        select(tables.vm.c.snapshots).where(tables.vm.c.id == vm).with_for_update()
    )
    return names


async def _write(vm: str, snapshots: list[str], transaction: Transaction) -> dict[str, Any]:
    await transaction.execute(
        update(tables.vm).where(tables.vm.c.id == vm).values(snapshots=snapshots)
    )
    return await documents.COLLECTIONS["vms"].one(vm, transaction)
