"""What a slice with a controller's VM has on the control network: pure, from its plan.

Every switch that carries the slice, or its controller, joins the network; like the slices' own
networks it is a star around the network node (docs/adr/0002, docs/adr/0015).
"""

from collections.abc import Iterable
from dataclasses import replace

from ccfd.handlers.layout import Layout
from ccfd.ipam import control
from ccfd.model import names
from ccfd.model.network import Control, Ports
from ccfd.model.slice import PlannedSlice, PlannedVm


def parts(layout: Layout, planned: PlannedSlice) -> tuple[Control, ...]:
    """List what the slice uses of the control network, the network node's switch first."""
    if planned.controller is None or planned.controller.vm is None:
        return ()
    carriers = {bridge.host for bridge in layout.bridges(planned)}
    carriers |= {layout.switch_of(vm.host) for vm in controllers(planned.vms)}
    others = sorted(carriers - {names.NODE})
    node = layout.settings.network_node.tunnel_ip
    uses = {names.NODE: ("", *map(layout.tunnel_ip, others)), **dict.fromkeys(others, (node,))}
    return tuple(
        Control(
            host=switch,
            slice=planned.name,
            vni=planned.vni,
            address=control.switch_address(layout.settings, switch),
            mtu=layout.settings.vm_mtu,
            uses=mine,
        )
        for switch, mine in uses.items()
    )


def grown(layout: Layout, before: PlannedSlice, after: PlannedSlice) -> tuple[Control, ...]:
    """List what *after* uses and *before* does not."""
    old = {part.host: set(part.uses or ()) for part in parts(layout, before)}
    more = []
    for part in parts(layout, after):
        uses = tuple(use for use in part.uses or () if use not in old.get(part.host, ()))
        if uses:
            more.append(replace(part, uses=uses))
    return tuple(more)


def whole(layout: Layout, planned: PlannedSlice) -> tuple[Control, ...]:
    """List the parts of a slice that leaves: with all that it uses there."""
    return tuple(replace(part, uses=None) for part in parts(layout, planned))


def taps(layout: Layout, planned: PlannedSlice, vms: Iterable[PlannedVm]) -> tuple[Ports, ...]:
    """List the ports of those of *vms* that are controllers."""
    return tuple(start.port for start in layout.starts(planned, controllers(vms)))


def controllers(vms: Iterable[PlannedVm]) -> tuple[PlannedVm, ...]:
    """Return those of *vms* that are controllers."""
    return tuple(vm for vm in vms if vm.kind == "controller")
