"""What happens when a VM comes to a slice or goes: pure, for tenants' VMs and controllers alike."""

from dataclasses import dataclass, replace

from ccfd.handlers import control_layout, controller_choice
from ccfd.handlers.layout import Layout
from ccfd.model.network import BridgeChange, DhcpChange
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.workflow.steps import Stage, Steps, each, in_order, only_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPlan:
    """A VM that comes or goes, and the slice without it."""

    vm: PlannedVm
    without: PlannedSlice

    @property
    def within(self) -> PlannedSlice:
        """The slice with the VM; a controller is what its bridges dial."""
        grown = replace(self.without, vms=(*self.without.vms, self.vm))
        if self.vm.kind != "controller":
            return grown
        return replace(grown, controller=controller_choice.of_vm(self.vm))


def coming(layout: Layout, plan: VmPlan) -> Steps:
    """List what brings the VM, and the slice's network to its host; last, bridges dial it."""
    before, after, vms = plan.without, plan.within, [plan.vm]
    bridges, ports = layout.grown(before, after)
    return in_order(
        each("make-bridge", bridges)
        + each("add-ports", ports)
        + each("join-control", control_layout.grown(layout, before, after))
        + each("fetch-image", layout.images(vms)),
        _dhcp(layout, before, after)
        + each("add-ports", control_layout.taps(layout, after, vms))
        + each("make-disk", layout.disks(after, vms)),
        each("boot", layout.starts(after, vms)),
        controlled(layout, before, after),
    )


def going(layout: Layout, plan: VmPlan) -> Steps:
    """List what takes the VM away, and the slice's network from where no other VM needs it."""
    before, after, vms = plan.within, plan.without, [plan.vm]
    bridges, ports = layout.grown(after, before)
    return only_forward(
        controlled(layout, before, after),
        each("destroy-vm", layout.machines(before, vms)),
        each("remove-disk", layout.disks(before, vms))
        + each("remove-ports", (*ports, *control_layout.taps(layout, before, vms)))
        + each("remove-bridge", bridges)
        + each("leave-control", control_layout.grown(layout, after, before))
        + _dhcp(layout, before, after),
    )


def controlled(layout: Layout, before: PlannedSlice, after: PlannedSlice) -> Stage:
    """Have the bridges that stay dial, and tell collectors, what *after* says."""
    if (before.controller, before.monitoring) == (after.controller, after.monitoring):
        return ()
    old = {bridge.host: bridge for bridge in layout.bridges(before)}
    return each(
        "change-bridge",
        [
            BridgeChange(before=old[bridge.host], after=bridge)
            for bridge in layout.bridges(after)
            if bridge.host in old
        ],
    )


def _dhcp(layout: Layout, before: PlannedSlice, after: PlannedSlice) -> Stage:
    changes = zip(layout.dhcp(before), layout.dhcp(after), strict=True)
    return each(
        "change-dhcp",
        [DhcpChange(before=old, after=new) for old, new in changes if old != new],
    )
