"""What hosts tell of each slice, and whether it fits together: pure.

A slice is made of what one of its bridges tells and of what its domains tell. Where two stories
do not fit, neither is believed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface

from ccfd.errors import Refused
from ccfd.handlers import tags
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import Present
from ccfd.handlers.vm_states import INTERRUPTED, OBSERVED
from ccfd.model import names
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.network.inventory import SeenBridge, SeenPort
from ccfd.vt.domains import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A slice as hosts tell of it; `planned` is None where no bridge does.

    With `faults` it cannot be made again. `states` are its VMs' states by their ids,
    `snapshots` the names of their snapshots.
    """

    name: str
    planned: PlannedSlice | None = None
    states: Mapping[str, str]
    snapshots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def gather(layout: Layout, present: Present) -> list[Told]:
    """Put together what was seen, slice by slice, in the order of their names."""
    seen = _Seen(layout, present)
    told = [_tell(name, seen) for name in sorted(seen.slices)]
    clashes = _clashes(told)
    return [replace(one, faults=(*one.faults, *clashes[one.name])) for one in told]


class _Seen:
    """What was seen, by the slice that its tags name."""

    def __init__(self, layout: Layout, present: Present) -> None:
        self.layout = layout
        self.present = present
        self.bridges: defaultdict[str, list[tuple[str, SeenBridge]]] = defaultdict(list)
        self.ports: defaultdict[str, list[tuple[str, SeenPort]]] = defaultdict(list)
        self.domains: defaultdict[str, list[tuple[str, Found]]] = defaultdict(list)
        # What the network node's bridge tells goes before what others tell.
        for switch in sorted(present.switches, key=lambda name: (name != names.NODE, name)):
            for bridge in present.switches[switch].bridges:
                if bridge.vni is not None and bridge.name == names.bridge(bridge.vni):
                    self.bridges[bridge.slice].append((switch, bridge))
            for port in present.switches[switch].ports:
                self.ports[port.slice].append((switch, port))
        for host, here in sorted(present.hosts.items()):
            for found in here.domains:
                self.domains[found.owner.slice].append((host, found))
        self.claimed = {one.vni: one.slice for one in present.node or ()}
        self.slices = {*self.bridges, *self.domains, *self.claimed.values()}

    def ports_of(self, planned: PlannedSlice) -> list[tuple[str, SeenPort]]:
        """List the ports of the slice's bridges, and its VMs' on guards, with their switches."""
        mine = (names.bridge(planned.vni), names.GUARD)
        return [(at, port) for at, port in self.ports[planned.name] if port.bridge in mine]


def _tell(name: str, seen: _Seen) -> Told:
    faults: list[str] = []
    planned, vms, states = None, [], {}
    try:
        planned = _network(name, seen)
        faults += _strangers(planned, seen)
    except Refused as exc:
        faults.append(exc.message)
    for host, found in seen.domains[name]:
        try:
            vms.append(_vm(host, found))
            states[found.vm] = _state(found)
        except Refused as exc:
            faults.append(f"domain {names.domain(found.vm)} on {host}: {exc.message}")
    faults += _doubles(vms)
    if planned is None:
        return Told(name=name, states=states, faults=tuple(faults))
    notes = (*_interrupted(name, seen), *_unseen(planned, seen))
    return Told(
        name=name,
        planned=replace(planned, vms=tuple(sorted(vms, key=lambda vm: vm.id))),
        states=states,
        snapshots={found.vm: found.snapshots for _, found in seen.domains[name]},
        notes=notes,
        faults=tuple(faults),
    )


def _network(name: str, seen: _Seen) -> PlannedSlice:
    """Return what the slice's bridges tell. Raises `Refused` where they tell nothing, or differ."""
    if not seen.bridges[name]:
        raise Refused("invalid_state", "no bridge of it was seen, and its bridges tell what it is")
    told, unreadable = [], []
    for switch, bridge in seen.bridges[name]:
        where = f"bridge {bridge.name} on {switch}"
        try:
            planned = tags.read_slice(bridge.about)
        except Refused as exc:
            unreadable.append(f"{where}: {exc.message}")
            continue
        if (planned.name, planned.vni) != (name, bridge.vni):
            raise Refused("invalid_state", f"{where} tells of {planned.name}, VNI {planned.vni}")
        told.append(planned)
    if not told:
        raise Refused("invalid_state", "; ".join(unreadable))
    stories = sorted({f"VNI {one.vni} with {one.address}" for one in told})
    if len(stories) > 1:
        raise Refused("invalid_state", f"its bridges do not agree: {', '.join(stories)}")
    return told[0]


def _vm(host: str, found: Found) -> PlannedVm:
    vm = tags.read_vm(found.owner.about)
    if vm.id != found.vm:
        raise Refused("invalid_state", f"it tells of VM {vm.id}")
    return replace(vm, host=host)


def _state(found: Found) -> str:
    """Return what the row shall say; one that was interrupted is for the reconciler to start."""
    if found.state == "shutoff" and found.reason in INTERRUPTED:
        return "running"
    if found.reason == "crashed":
        return "crashed"
    return found.state if found.state in OBSERVED else "running"


def _interrupted(name: str, seen: _Seen) -> Iterator[str]:
    for host, found in seen.domains[name]:
        if found.state == "shutoff" and found.reason in INTERRUPTED:
            yield (
                f"VM {found.owner.name} is off as after a restart of {host}: "
                "reconcile --apply starts it"
            )


def _strangers(planned: PlannedSlice, seen: _Seen) -> Iterator[str]:
    """Name what belongs to the slice and to no place of the settings, or to another slice too."""
    hosts = seen.layout.settings.host
    tunnels = {names.tunnel(planned.vni, host.tunnel_ip) for host in hosts}
    places = {names.NODE, *(host.name for host in hosts)}
    for switch, port in seen.ports_of(planned):
        lost = switch == names.NODE and port.kind == "vxlan" and port.name not in tunnels
        if lost or (port.host is not None and port.host not in places):
            yield f"port {port.name} leads to a host that is no [[host]] of the settings"
    holder = seen.claimed.get(planned.vni, planned.name)
    if holder != planned.name:
        yield f"on the network node VNI {planned.vni} is {holder}'s"


def _unseen(planned: PlannedSlice, seen: _Seen) -> Iterator[str]:
    """Name what may be of the slice where nobody answered, and ports without their VM."""
    present, found = seen.present, {one.vm for _, one in seen.domains[planned.name]}
    ports = seen.ports_of(planned)
    missing = sorted({port.vm for _, port in ports if port.vm is not None} - found)
    at_node = {port.name for switch, port in ports if switch == names.NODE}
    silent = []
    for host in seen.layout.settings.host:
        switch = seen.layout.switch_of(host.name)
        if host.name in present.hosts:
            continue
        if switch in present.switches:
            maybe = any(at == switch and port.vm in missing for at, port in ports)
        else:
            tunnel = names.tunnel(planned.vni, host.tunnel_ip)
            maybe = names.NODE not in present.switches or tunnel in at_node
        if maybe:
            silent.append(host.name)
    if silent:
        yield (
            f"it may have VMs on {', '.join(silent)}, which did not answer: "
            "run this again before anything else is asked of the slice"
        )
    elif missing:
        yield f"there are ports, and no domains, of the VMs {', '.join(missing)}"


def _doubles(vms: Sequence[PlannedVm]) -> Iterator[str]:
    for what in ("id", "name", "ip"):
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for vm in vms:
            holders[getattr(vm, what)].append(f"{vm.id} on {vm.host}")
        for value, whose in holders.items():
            if len(whose) > 1:
                yield f"{what} {value} is that of several VMs: {', '.join(whose)}"


def _clashes(told: Sequence[Told]) -> defaultdict[str, list[str]]:
    """Find slices that cannot both be: who is right only a person can tell."""
    by_vni: defaultdict[int, list[str]] = defaultdict(list)
    by_block: defaultdict[int, list[tuple[IPv4Interface, str]]] = defaultdict(list)
    for one in told:
        if one.planned is None:
            continue
        by_vni[one.planned.vni].append(one.name)
        mine = IPv4Interface(one.planned.address)
        # Subnets have 64 addresses at most, and begin at a multiple of their size.
        by_block[int(mine) >> 6].append((mine, one.name))
    clashes: defaultdict[str, list[str]] = defaultdict(list)
    for vni, sharers in by_vni.items():
        for name in sharers:
            others = [other for other in sharers if other != name]
            if others:
                clashes[name].append(f"VNI {vni} is also that of {', '.join(others)}")
    for members in by_block.values():
        for mine, name in members:
            others = [
                f"{other} ({net.network})"
                for net, other in members
                if other != name and net.network.overlaps(mine.network)
            ]
            if others:
                clashes[name].append(f"{mine.network} overlaps with {', '.join(others)}")
    return clashes
