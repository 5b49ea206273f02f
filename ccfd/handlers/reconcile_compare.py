"""How what hosts hold differs from what the database says: pure.

Nothing is concluded about a place that did not answer, nor about a slice that a request is at
work on.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ccfd.handlers import reconcile_things as things
from ccfd.handlers.reconcile_things import Thing, WantedSlice
from ccfd.handlers.vm_states import INTERRUPTED, Observed, Vm, observed
from ccfd.model import names
from ccfd.model.network import Bridge, Control, Ports
from ccfd.model.vm import Machine
from ccfd.network import dhcp_files
from ccfd.network.bridges import on_bridge
from ccfd.network.gateway_plan import mark
from ccfd.network.inventory import Inventory, SeenPort
from ccfd.network.node import SeenSlice
from ccfd.vt.domains import Found

_UUID_LENGTH = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the database says. `slices` are those that are settled, `left_alone` all others.

    Of these `deleting` are those whose deletion has ended without coming to its end, and
    `unplanned` those that the settings have no place for any more, with the reason.
    """

    slices: Mapping[str, WantedSlice]
    left_alone: frozenset[str]
    deleting: frozenset[str] = frozenset()
    unplanned: Mapping[str, str] = field(default_factory=dict)
    vms: Mapping[str, Vm]
    gone: Mapping[str, str]
    """VMs that hold nothing any more but have a row: whose they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHost:
    """What a host's libvirt holds of ours: domains, and names of VMs' volumes."""

    domains: tuple[Found, ...] = ()
    volumes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What was seen. Places that did not answer are missing; `node` is None then."""

    switches: Mapping[str, Inventory]
    hosts: Mapping[str, SeenHost]
    node: tuple[SeenSlice, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One difference, and what is to be done. `slice` is empty where nothing tells whose it is."""

    action: Literal["put back", "remove"]
    thing: Thing
    slice: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A deletion that failed, of a slice or of one VM, and that every place could now carry out."""

    slice: str
    vm: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All differences. `lost` are VMs that cannot be put back: their disk is not there."""

    repairs: tuple[Repair, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    observed: tuple[Observed, ...] = ()
    lost: tuple[Thing, ...] = ()


class _Seen:
    """What was seen, to be looked up by what is wanted."""

    def __init__(self, present: Present) -> None:
        self.hosts = present.hosts
        self.switches = present.switches.keys()
        self.node = (
            None if present.node is None else {(one.slice, one.vni): one for one in present.node}
        )
        self.controls = {switch: one.control for switch, one in present.switches.items()}
        self.bridges = {
            (switch, one.name): one
            for switch, inventory in present.switches.items()
            for one in inventory.bridges
        }
        self.ports: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
        self.guarded: defaultdict[tuple[str, str, int | None], dict[str, SeenPort]]
        self.guarded = defaultdict(dict)
        self.strays: defaultdict[tuple[str, str, int | None], set[str]] = defaultdict(set)
        for switch, inventory in present.switches.items():
            for port in inventory.ports:
                # On a shared switch another host's ports are on the bridge as well.
                if port.host in (None, switch):
                    self.ports[switch, port.bridge].add(port.name)
                    if port.bridge == names.GUARD:
                        self.guarded[switch, port.slice, port.vni][port.name] = port
            for stray in inventory.strays:
                if stray.host in (None, switch):
                    self.strays[switch, stray.slice, stray.vni].add(stray.port)
        self.domains = {
            (host, one.vm): one for host, seen in present.hosts.items() for one in seen.domains
        }


def compare(wanted: Wanted, present: Present) -> Findings:
    """List what differs, in the order of slices, what is missing first."""
    repairs: list[Repair] = []
    lost: list[Thing] = []
    seen = _Seen(present)
    for one in wanted.slices.values():
        repairs += _network(one, seen)
        for machine in one.machines:
            missing, whole = _domain(machine, seen)
            if missing is not None and whole:
                repairs.append(missing)
            elif missing is not None:
                lost.append(things.disk(machine.vm, machine.host))
    repairs += _orphans(wanted, present)
    return Findings(
        repairs=tuple(repairs),
        unfinished=tuple(_unfinished(wanted, present)),
        observed=tuple(_observed(wanted, present)),
        lost=tuple(lost),
    )


def _network(wanted: WantedSlice, seen: _Seen) -> Iterator[Repair]:
    def missing(thing: Thing, why: str) -> Repair:
        return Repair(action="put back", thing=thing, slice=wanted.name, why=why)

    for thing, why in () if seen.node is None else _lacking(wanted, seen.node):
        yield missing(thing, why)
    for bridge in wanted.bridges:
        why = _difference(bridge, seen) if bridge.host in seen.switches else ""
        if why:
            yield missing(things.bridge(bridge.vni, bridge.host), why)
    for part in wanted.control:
        why = _left_out(part, wanted.taps, seen) if part.host in seen.switches else ""
        if why:
            yield missing(things.control(part.vni, part.host), why)


def _lacking(
    wanted: WantedSlice, node: Mapping[tuple[str, int], SeenSlice]
) -> Iterator[tuple[Thing, str]]:
    """Name what the network node lacks of a slice besides its switch, and why."""
    stands = node.get((wanted.name, wanted.vni))
    if stands is None or not stands.joined:
        yield things.namespace(wanted.vni), "it or its leg is not there"
    for server in wanted.dhcp:
        if stands is None or stands.dhcp is None:
            yield things.dhcp(wanted.vni), "it does not run"
        elif stands.dhcp != dhcp_files.mark(server):
            yield things.dhcp(wanted.vni), "it serves something else"
    for gateway in wanted.gateway:
        if stands is None or stands.gateway != mark(gateway):
            yield things.gateway(wanted.vni), "it is not there, or not as it should be"


def _left_out(part: Control, taps: Iterable[Ports], seen: _Seen) -> str:
    """Say what is wrong with a slice's part of the control network, or nothing."""
    found = seen.controls[part.host]
    if found is None:
        return "it is not there"
    uses = frozenset(part.uses or ())
    if not uses <= found.uses.get((part.vni, part.slice), frozenset()):
        return "the slice has not joined it"
    if found.address != part.address:
        return f"the switch's address is {found.address or 'none'}, not {part.address}"
    own = [tap for tap in taps if tap.host == part.host]
    ports = {names.tunnel(names.CONTROL_VNI, use) for use in uses if use}
    ports |= {row.name for tap in own for row in on_bridge(tap.ports)}
    if ports - found.ports:
        return f"port {min(ports - found.ports)} is not on it"
    return next(filter(None, (_unguarded(tap, seen) for tap in own)), "")


def _unguarded(network: Bridge | Ports, seen: _Seen) -> str:
    """Say what is wrong with the guard of a network's VMs, or nothing."""
    there = dict(seen.guarded[network.host, network.slice, network.vni])
    for port in network.ports:
        if port.vm is None:
            continue
        found, patch = there.pop(port.name, None), there.pop(names.guard_patch(port.vm), None)
        if found is None or patch is None:
            return f"port {port.name} is not on the guard"
        if (found.mac, found.ip) != (port.mac, port.ip):
            return f"port {port.name} is guarded for another address"
        if found.bandwidth != port.bandwidth:
            return f"port {port.name} has another bandwidth"
        if found.export != port.export:
            return f"port {port.name} does not tell collectors what it should"
    if there:
        return f"port {min(there)} is on the guard"
    strays = seen.strays[network.host, network.slice, network.vni]
    return f"a limit of port {min(strays)} is left" if strays else ""


def _difference(bridge: Bridge, seen: _Seen) -> str:
    """Say what is wrong with a bridge, or nothing."""
    at = (bridge.host, names.bridge(bridge.vni))
    found = seen.bridges.get(at)
    if found is None or found.slice != bridge.slice:
        return "it is not there"
    if found.about != bridge.about:
        return "what it tells of its slice is out of date"
    targets = () if bridge.controller is None else (bridge.controller.target,)
    if (found.targets, found.secure) != (targets, bool(targets)):
        return "it is not controlled as it should be"
    if found.export != bridge.export:
        return "it does not tell collectors what it should"
    wanted, there = {row.name for row in on_bridge(bridge.ports)}, seen.ports[at]
    if wanted - there:
        return f"port {min(wanted - there)} is not on it"
    return f"port {min(there - wanted)} is on it" if there - wanted else _unguarded(bridge, seen)


def _domain(machine: Machine, seen: _Seen) -> tuple[Repair | None, bool]:
    """Say whether a domain must be started again, and whether its volumes are there."""
    host = seen.hosts.get(machine.host)
    if host is None:
        return None, True
    found = seen.domains.get((machine.host, machine.vm))
    if found is not None and not (found.state == "shutoff" and found.reason in INTERRUPTED):
        return None, True
    repair = Repair(
        action="put back",
        thing=things.domain(machine.vm, machine.host),
        slice=machine.slice,
        why="it is not defined" if found is None else "its run was interrupted",
    )
    volumes = {names.disk_volume(machine.vm), names.seed_volume(machine.vm)}
    return repair, volumes <= host.volumes


def _unfinished(wanted: Wanted, present: Present) -> Iterator[Unfinished]:
    if present.node is None or names.NODE not in present.switches:
        return
    for name in sorted(wanted.deleting):
        if {vm.host for vm in wanted.vms.values() if vm.slice == name} <= present.hosts.keys():
            yield Unfinished(slice=name)
    for identity, vm in wanted.vms.items():
        if vm.state == "deleting" and vm.slice in wanted.slices and vm.host in present.hosts:
            yield Unfinished(slice=vm.slice, vm=identity)


def _observed(wanted: Wanted, present: Present) -> Iterator[Observed]:
    """List the VMs of settled slices whose power state is not the database's."""
    for host, seen in present.hosts.items():
        for found in seen.domains:
            vm = wanted.vms.get(found.vm)
            if vm is None or vm.host != host or vm.slice not in wanted.slices:
                continue
            differs = observed(vm, found)
            if differs is not None:
                yield differs


def _orphans(wanted: Wanted, present: Present) -> Iterator[Repair]:
    """List what carries our tags, and no row of the database claims."""
    for thing, owner in dict.fromkeys(_tagged(present, wanted)):
        if not is_claimed(thing, owner, wanted):
            yield Repair(action="remove", thing=thing, slice=owner, why="nothing claims it")


def is_claimed(thing: Thing, owner: str, wanted: Wanted) -> bool:
    """Tell whether the database says that *thing* belongs where it is, or may say so soon.

    A VM's things are claimed by its row wherever they are: they may hold a tenant's data.
    """
    if owner in wanted.left_alone:
        return True
    if thing.kind in ("domain", "disk"):
        return thing.of in wanted.vms
    settled = wanted.slices.get(owner)
    return settled is not None and thing in settled.things()


def _tagged(present: Present, wanted: Wanted) -> Iterator[tuple[Thing, str]]:
    """Name all that is ours, with the slice that its tags name."""
    for switch, inventory in present.switches.items():
        yield from _on_switch(switch, inventory)
    for one in present.node or ():
        yield from ((thing, one.slice) for thing in _on_node(one))
    for host, seen in present.hosts.items():
        owners = {found.vm: found.owner.slice for found in seen.domains}
        for vm, owner in owners.items():
            yield things.domain(vm, host), owner
        for vm in sorted({vm_of(volume) for volume in seen.volumes}):
            yield things.disk(vm, host), owners.get(vm) or wanted.gone.get(vm, "")


def _on_switch(switch: str, seen: Inventory) -> Iterator[tuple[Thing, str]]:
    for bridge in seen.bridges:
        if bridge.vni is not None and bridge.name == names.bridge(bridge.vni):
            yield things.bridge(bridge.vni, switch), bridge.slice
    # What is left on the guard goes with the bridge, whether or not that is there.
    for port in seen.ports:
        if port.bridge == names.GUARD and port.vni:
            yield things.bridge(port.vni, switch), port.slice
    for stray in seen.strays:
        if stray.vni:
            yield things.bridge(stray.vni, switch), stray.slice
    for vni, slice_name in seen.control.uses if seen.control else ():
        yield things.control(vni, switch), slice_name


def _on_node(seen: SeenSlice) -> Iterator[Thing]:
    if seen.dhcp is not None:
        yield things.dhcp(seen.vni)
    if seen.gateway is not None:
        yield things.gateway(seen.vni)
    yield things.namespace(seen.vni)


def vm_of(volume: str) -> str:
    """Return the id of the VM that a volume is called after."""
    return volume.removeprefix(names.PREFIX)[:_UUID_LENGTH]
