"""The stories of `vm.start`, `vm.stop`, `vm.reboot`, `vm.suspend` and `vm.resume`.

A VM's state is written from what a step has seen, never from what was meant to happen.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ccfd import documents
from ccfd.errors import Refused
from ccfd.handlers import one_vm, vm_choice
from ccfd.handlers.layout import Layout
from ccfd.model.vm import Start, Stop
from ccfd.requests.events import VmPower
from ccfd.settings import Settings
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.steps import Steps, each, in_order, only_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerPlan:
    """A VM whose power changes; `start` is how it is started."""

    start: Start
    force: bool

    @property
    def stop(self) -> Stop:
        """How it is stopped."""
        return Stop(machine=self.start.machine, force=self.force)


class _PowerVm(Handler[VmPower, PowerPlan]):
    """What the five have in common. `there` are the states in which there is nothing to do."""

    body = VmPower
    plan = PowerPlan
    possible: ClassVar[frozenset[str]]
    there: ClassVar[frozenset[str]] = frozenset()
    advice: ClassVar[str]
    runs_then: ClassVar[bool]

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout(settings)

    async def key(self, body: VmPower, transaction: Transaction) -> str:
        """Return the key of the VM's slice."""
        return await one_vm.key_of(body.vm, transaction)

    async def decide(self, body: VmPower, transaction: Transaction) -> PowerPlan | Done:
        """See whether it can be; nothing is written before it has come about."""
        found = await one_vm.find(body.vm, transaction)
        state = found.row.state
        if state in self.there:
            return Done(await documents.COLLECTIONS["vms"].one(body.vm, transaction))
        if state not in self.possible:
            raise Refused("invalid_state", f"the VM {body.vm} is {state}: {self.advice}")
        if self.runs_then and found.slice_row.state == "stopped":
            raise Refused(
                "invalid_state", f"the slice {found.slice.name} is stopped: send slice.start"
            )
        (start,) = self._layout.starts(found.slice, [found.vm])
        return PowerPlan(start=start, force=body.force)

    @abstractmethod
    def steps(self, plan: PowerPlan) -> Steps:
        """List what will happen, in order."""

    async def settle(
        self, plan: PowerPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store the state that the last step has seen."""
        vm = plan.start.machine.vm
        await vm_choice.observe([vm], values[-1:], transaction)
        return await documents.COLLECTIONS["vms"].one(vm, transaction)

    async def forget(
        self, plan: PowerPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Have nothing to give back."""
        return {}


class StartVm(_PowerVm):
    """Start a VM that is off."""

    event = "vm.start"
    possible = frozenset({"shutoff", "crashed"})
    there = frozenset({"running"})
    advice = "one that is paused is resumed by vm.resume"
    runs_then = True

    def steps(self, plan: PowerPlan) -> Steps:
        """Start it; power off again what could not be brought to run."""
        return in_order(each("start-vm", [plan.start]))


class StopVm(_PowerVm):
    """Shut a VM down: the guest is asked, and given its time; then the power goes."""

    event = "vm.stop"
    possible = frozenset({"running", "paused", "stopping"})
    there = frozenset({"shutoff", "crashed"})
    advice = "only one that is there can be stopped"
    runs_then = False

    def steps(self, plan: PowerPlan) -> Steps:
        """Stop it."""
        return only_forward(each("stop-vm", [plan.stop]))


class RebootVm(_PowerVm):
    """Stop a VM and start it: whoever repeats either finds it done, so it reboots once."""

    event = "vm.reboot"
    possible = frozenset({"running", "paused", "stopping", "crashed"})
    advice = "send vm.start"
    runs_then = True

    def steps(self, plan: PowerPlan) -> Steps:
        """Stop it, then start it."""
        return only_forward(each("stop-vm", [plan.stop]), each("start-vm", [plan.start]))


class SuspendVm(_PowerVm):
    """Have a VM stand still, its memory kept."""

    event = "vm.suspend"
    possible = frozenset({"running"})
    there = frozenset({"paused"})
    advice = "only one that runs can be suspended"
    runs_then = False

    def steps(self, plan: PowerPlan) -> Steps:
        """Suspend it."""
        return in_order(each("suspend-vm", [plan.start.machine]))


class ResumeVm(_PowerVm):
    """Have a VM go on that was suspended."""

    event = "vm.resume"
    possible = frozenset({"paused"})
    there = frozenset({"running"})
    advice = "only one that is paused can be resumed; vm.start starts one that is off"
    runs_then = True

    def steps(self, plan: PowerPlan) -> Steps:
        """Resume it."""
        return in_order(each("resume-vm", [plan.start.machine]))
