"""Twins of the drivers: a world in memory that refuses what the real one refuses."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ccfd.errors import Refused
from ccfd.handlers.effects import effects
from ccfd.handlers.reconcile_compare import Present, SeenHost
from ccfd.model import names
from ccfd.model.network import (
    Bridge,
    BridgeChange,
    Control,
    Dhcp,
    DhcpChange,
    Export,
    Gateway,
    Namespace,
    Port,
    Ports,
)
from ccfd.model.vm import (
    Disk,
    IgnoredImage,
    Image,
    ImageListing,
    ImageOnHost,
    Listing,
    Machine,
    Revert,
    Snapshot,
    Stop,
)
from ccfd.network import dhcp_files
from ccfd.network.gateway_plan import mark
from ccfd.network.guarding import WrongFlows
from ccfd.network.inventory import Inventory, SeenBridge, SeenControl, SeenPort
from ccfd.network.node import SeenSlice
from ccfd.vt.domains import Found
from ccfd.vt.metadata import Owner
from ccfd.workflow.steps import Effects

TINY = Image(name="tiny", checksum="5" * 64, size=1 << 20, virtual_size=48 << 20)

Trap = Callable[[str, Any], Awaitable[None]]


async def no_trap(_call: str, _args: Any) -> None:
    """Let every call pass, but give others a turn."""
    await asyncio.sleep(0)


async def no_pause() -> None:
    """Have a compound effect at once."""


@dataclass
class World:
    """Everything that hosts hold. `trap` is awaited before and after each call.

    `halfway` is awaited where a real effect is several: there a killed daemon leaves a part.
    """

    bridges: dict[tuple[str, int], dict[str, Port]] = field(default_factory=dict)
    guards: dict[str, dict[str, Port]] = field(default_factory=dict)
    tapped: dict[str, tuple[str, int]] = field(default_factory=dict)
    flows: set[tuple[str, str]] = field(default_factory=set)
    owners: dict[tuple[str, int], str] = field(default_factory=dict)
    abouts: dict[tuple[str, int], str] = field(default_factory=dict)
    targets: dict[tuple[str, int], str] = field(default_factory=dict)
    exports: dict[tuple[str, int], Export] = field(default_factory=dict)
    controls: dict[str, dict[tuple[int, str], set[str]]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    namespaces: dict[int, str] = field(default_factory=dict)
    legs: dict[int, str] = field(default_factory=dict)
    gateways: dict[int, Gateway] = field(default_factory=dict)
    firewalls: set[int] = field(default_factory=set)
    dhcp_files: dict[int, Dhcp] = field(default_factory=dict)
    dhcp: dict[int, Dhcp] = field(default_factory=dict)
    store: tuple[Image, ...] = (TINY,)
    useless: tuple[IgnoredImage, ...] = ()
    images: set[tuple[str, str]] = field(default_factory=set)
    unmarked: set[tuple[str, str]] = field(default_factory=set)
    disks: dict[tuple[str, str], str] = field(default_factory=dict)
    seeds: dict[tuple[str, str], str] = field(default_factory=dict)
    definitions: dict[tuple[str, str], Machine] = field(default_factory=dict)
    domains: dict[tuple[str, str], Machine] = field(default_factory=dict)
    taken_down: set[str] = field(default_factory=set)
    paused: set[tuple[str, str]] = field(default_factory=set)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    snapshots: dict[tuple[str, str], dict[str, tuple[str, str]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    boots: list[str] = field(default_factory=list)
    trap: Trap = no_trap
    halfway: Callable[[], Awaitable[None]] = no_pause

    def leftovers(self) -> dict[str, Any]:
        """Return what is there except base images, which stay cached."""
        found: dict[str, dict[Any, Any]] = {
            "bridges": self.bridges,
            "guards": self.guards,
            "flows": dict.fromkeys(self.flows),
            "controls": self.controls,
            "namespaces": self.namespaces,
            "legs": self.legs,
            "gateways": self.gateways,
            "firewalls": dict.fromkeys(self.firewalls),
            "dhcp": self.dhcp,
            "dhcp_files": self.dhcp_files,
            "disks": self.disks,
            "seeds": self.seeds,
            "definitions": self.definitions,
            "domains": self.domains,
        }
        return {what: list(things) for what, things in found.items() if things}

    def state_of(self, machine: Machine) -> str:
        """Return the state of a domain that is defined."""
        at = (machine.host, machine.vm)
        if at not in self.domains:
            return "shutoff"
        return "paused" if at in self.paused else "running"

    def reason_of(self, machine: Machine) -> str:
        """Return why a domain is off; one that nobody turned off was interrupted."""
        if (machine.host, machine.vm) in self.domains:
            return ""
        return self.reasons.get(machine.vm, "unknown")

    def effects(self) -> Effects:
        """Join the twins with the names of effects."""
        return effects(
            fabric=FabricTwin(self),
            namespaces=NamespacesTwin(self),
            dhcp=DhcpTwin(self),
            gateways=GatewaysTwin(self),
            images=ImagesTwin(self),
            disks=DisksTwin(self),
            domains=DomainsTwin(self),
            snapshots=SnapshotsTwin(self),
        )


class FabricTwin:
    """Switches. A change of rows is one; flows are another, after it, or before what they go with.

    A VM's port stands twice: its patch on the slice's bridge, its tap on the guard.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    async def make(self, bridge: Bridge) -> None:
        await self._world.trap("fabric.make:before", bridge)
        at = (bridge.host, bridge.vni)
        if self._world.owners.get(at, bridge.slice) != bridge.slice:
            raise Refused("switch_error", f"{names.bridge(bridge.vni)} is another slice's")
        self._world.owners[at] = bridge.slice
        self._world.bridges.setdefault(at, {})
        await self._world.halfway()
        self._world.bridges[at] = {_on_bridge(port): port for port in bridge.ports}
        kept = {port.name for port in bridge.ports}
        going = [tap for tap in self._taps(bridge) if tap not in kept]
        self._take_out(bridge.host, going)
        self._world.abouts[at] = bridge.about
        self._world.exports.pop(at, None)
        if bridge.export is not None:
            self._world.exports[at] = bridge.export
        self._world.targets.pop(at, None)
        if bridge.controller is not None:
            self._world.targets[at] = bridge.controller.target
        await self._guard(bridge)
        await self._world.trap("fabric.make:after", bridge)

    def _taps(self, network: Bridge | Ports) -> dict[str, Port]:
        """Return what a slice's network has on the guard."""
        whose = (network.slice, network.vni)
        here = self._world.guards.get(network.host, {})
        return {tap: port for tap, port in here.items() if self._world.tapped[tap] == whose}

    async def _guard(self, network: Bridge | Ports) -> None:
        vms = [port for port in network.ports if port.vm is not None]
        for port in vms:
            self._world.guards.setdefault(network.host, {})[port.name] = port
            self._world.tapped[port.name] = (network.slice, network.vni)
        await self._world.halfway()
        self._world.flows |= {(network.host, port.vm or "") for port in vms}

    def _take_out(self, host: str, taps: Iterable[str]) -> None:
        here = self._world.guards.get(host, {})
        for tap in taps:
            here.pop(tap, None)
        if not here and self._world.guards.pop(host, None) is not None:
            self._world.flows = {flow for flow in self._world.flows if flow[0] != host}

    async def _forget(self, host: str, ports: Iterable[Port]) -> None:
        self._world.flows -= {(host, port.vm or "") for port in ports}
        await self._world.halfway()

    async def change(self, change: BridgeChange) -> None:
        await self._world.trap("fabric.change:before", change.after)
        await self.make(change.after)

    async def change_back(self, change: BridgeChange) -> None:
        await self.make(change.before)

    async def remove(self, bridge: Bridge) -> None:
        await self._world.trap("fabric.remove:before", bridge)
        at = (bridge.host, bridge.vni)
        await self._forget(bridge.host, self._taps(bridge).values())
        self._take_out(bridge.host, list(self._taps(bridge)))
        if self._world.owners.get(at) == bridge.slice:
            self._world.bridges[at] = {}
            await self._world.halfway()
            del self._world.owners[at], self._world.bridges[at]
            self._world.abouts.pop(at, None)
            self._world.exports.pop(at, None)
            self._world.targets.pop(at, None)
        await self._world.trap("fabric.remove:after", bridge)

    async def join(self, part: Control) -> None:
        await self._world.trap("fabric.join:before", part)
        here = self._world.controls.setdefault(part.host, {})
        self._world.addresses[part.host] = part.address
        self._world.bridges.setdefault((part.host, 0), {})
        here.setdefault((part.vni, part.slice), set()).update(part.uses or ())
        await self._world.halfway()
        self._settle(part.host)
        await self._world.trap("fabric.join:after", part)

    async def leave(self, part: Control) -> None:
        await self._world.trap("fabric.leave:before", part)
        here, whose = self._world.controls.get(part.host, {}), (part.vni, part.slice)
        left = set() if part.uses is None else here.get(whose, set()) - set(part.uses)
        here.pop(whose, None)
        if left:
            here[whose] = left
        if part.uses is None:
            bridge = Ports(host=part.host, slice=part.slice, vni=names.CONTROL_VNI, ports=())
            taps = self._taps(bridge)
            await self._forget(part.host, taps.values())
            self._take_out(part.host, taps)
            ports = self._world.bridges.get((part.host, names.CONTROL_VNI), {})
            for port in taps.values():
                ports.pop(_on_bridge(port), None)
        await self._world.halfway()
        self._settle(part.host)
        await self._world.trap("fabric.leave:after", part)

    def _settle(self, host: str) -> None:
        """Have the control bridge's tunnels, and the bridge itself, as its users need it."""
        here = self._world.controls.get(host)
        if not here:
            for held in (self._world.controls, self._world.addresses):
                held.pop(host, None)
            self._world.bridges.pop((host, 0), None)
            return
        ports = self._world.bridges[host, 0]
        for name in [name for name, port in ports.items() if port.kind == "vxlan"]:
            del ports[name]
        for peer in {use for uses in here.values() for use in uses} - {""}:
            name = names.tunnel(0, peer)
            ports[name] = Port(name=name, kind="vxlan", remote_ip=peer)

    async def plug(self, ports: Ports) -> None:
        await self._world.trap("fabric.plug:before", ports)
        bridge = self._world.bridges.get((ports.host, ports.vni))
        if bridge is None:
            raise Refused("switch_error", "no such bridge")
        for port in ports.ports:
            bridge[_on_bridge(port)] = port
        await self._guard(ports)
        await self._world.trap("fabric.plug:after", ports)

    async def unplug(self, ports: Ports) -> None:
        await self._world.trap("fabric.unplug:before", ports)
        await self._forget(ports.host, ports.ports)
        bridge = self._world.bridges.get((ports.host, ports.vni), {})
        for port in ports.ports:
            bridge.pop(_on_bridge(port), None)
        self._take_out(ports.host, [port.name for port in ports.ports if port.vm is not None])
        await self._world.halfway()
        await self._world.trap("fabric.unplug:after", ports)

    async def carries(self, ports: Ports) -> bool:
        await self._world.trap("fabric.carries:before", ports)
        return not any(port.name in self._world.taken_down for port in ports.ports)

    async def shape(self, ports: Ports) -> None:
        await self._world.trap("fabric.shape:before", ports)


def _on_bridge(port: Port) -> str:
    """Name what stands for a port on its slice's bridge."""
    return port.name if port.vm is None else names.patch(port.vm)


class NamespacesTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def open(self, namespace: Namespace) -> None:
        await self._world.trap("namespaces.open:before", namespace)
        self._world.namespaces[namespace.vni] = namespace.address
        await self._world.halfway()
        self._world.legs[namespace.vni] = namespace.mac
        await self._world.trap("namespaces.open:after", namespace)

    async def close(self, namespace: Namespace) -> None:
        await self._world.trap("namespaces.close:before", namespace)
        if namespace.vni in self._world.dhcp:
            raise Refused("internal", "the namespace still has its DHCP server")
        if namespace.vni in self._world.gateways:
            raise Refused("internal", "the gateway's port would be left behind")
        self._world.legs.pop(namespace.vni, None)
        await self._world.halfway()
        self._world.namespaces.pop(namespace.vni, None)
        await self._world.trap("namespaces.close:after", namespace)


class DhcpTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def serve(self, dhcp: Dhcp) -> None:
        await self._world.trap("dhcp.serve:before", dhcp)
        if dhcp.vni not in self._world.namespaces:
            raise Refused("internal", "no namespace to serve DHCP in")
        self._world.dhcp_files[dhcp.vni] = dhcp
        await self._world.halfway()
        self._world.dhcp[dhcp.vni] = dhcp
        await self._world.trap("dhcp.serve:after", dhcp)

    async def stop(self, dhcp: Dhcp) -> None:
        await self._world.trap("dhcp.stop:before", dhcp)
        self._world.dhcp.pop(dhcp.vni, None)
        await self._world.halfway()
        self._world.dhcp_files.pop(dhcp.vni, None)
        await self._world.trap("dhcp.stop:after", dhcp)

    async def change(self, change: DhcpChange) -> None:
        await self.serve(change.after)

    async def change_back(self, change: DhcpChange) -> None:
        await self.serve(change.before)


class GatewaysTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def open(self, gateway: Gateway) -> None:
        await self._world.trap("gateways.open:before", gateway)
        if gateway.vni not in self._world.namespaces:
            raise Refused("switch_error", "no namespace to open a gateway in")
        others = {vni: one for vni, one in self._world.gateways.items() if vni != gateway.vni}
        if gateway.outside in {one.outside for one in others.values()}:
            raise Refused("internal", f"{gateway.outside} is another slice's")
        self._world.firewalls.add(gateway.vni)
        await self._world.halfway()
        self._world.gateways[gateway.vni] = gateway
        await self._world.trap("gateways.open:after", gateway)

    async def close(self, gateway: Gateway) -> None:
        await self._world.trap("gateways.close:before", gateway)
        self._world.gateways.pop(gateway.vni, None)
        await self._world.halfway()
        self._world.firewalls.discard(gateway.vni)
        await self._world.trap("gateways.close:after", gateway)


class ImagesTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def list(self, wanted: ImageListing) -> dict[str, Any]:
        await self._world.trap("images.list:before", wanted)
        found = tuple(image for image in self._world.store if wanted.name in (None, image.name))
        if wanted.name is not None and not found:
            raise Refused("image_not_found", f"no image {wanted.name}")
        await self._world.trap("images.list:after", wanted)
        return asdict(Listing(images=found, ignored=self._world.useless))

    async def fetch(self, wanted: ImageOnHost) -> None:
        await self._world.trap("images.fetch:before", wanted)
        await self._world.halfway()
        self._world.images.add((wanted.host, wanted.image.checksum))
        self._world.unmarked.discard((wanted.host, wanted.image.checksum))
        await self._world.trap("images.fetch:after", wanted)

    async def inventory(self, host: str) -> dict[str, bool]:
        world = self._world
        return {
            checksum: (at, checksum) in world.images
            for at, checksum in world.images | world.unmarked
            if at == host
        }

    async def retire(self, host: str, checksum: str) -> bool:
        if self._has_dependants(host, checksum):
            return False
        self._world.images.discard((host, checksum))
        self._world.unmarked.add((host, checksum))
        return True

    async def remove(self, host: str, checksum: str) -> bool:
        if (host, checksum) in self._world.images or self._has_dependants(host, checksum):
            return False
        self._world.unmarked.discard((host, checksum))
        return True

    def _has_dependants(self, host: str, checksum: str) -> bool:
        disks = self._world.disks.items()
        return any((at, base) == (host, checksum) for (at, _vm), base in disks)


class DisksTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def make(self, disk: Disk) -> None:
        await self._world.trap("disks.make:before", disk)
        if (disk.host, disk.image.checksum) not in self._world.images:
            raise Refused("image_not_found", "the base image is not in the pool")
        self._world.disks[disk.host, disk.vm] = disk.image.checksum
        self._world.sizes[disk.host, disk.vm] = disk.size
        await self._world.halfway()
        self._world.seeds[disk.host, disk.vm] = disk.hostname
        await self._world.trap("disks.make:after", disk)

    async def remove(self, disk: Disk) -> None:
        await self._world.trap("disks.remove:before", disk)
        if (disk.host, disk.vm) in self._world.definitions:
            raise Refused("hypervisor_error", "the disk is in use")
        self._world.seeds.pop((disk.host, disk.vm), None)
        await self._world.halfway()
        self._world.disks.pop((disk.host, disk.vm), None)
        self._world.sizes.pop((disk.host, disk.vm), None)
        self._world.snapshots.pop((disk.host, disk.vm), None)
        await self._world.trap("disks.remove:after", disk)

    async def grow(self, disk: Disk) -> None:
        await self._world.trap("disks.grow:before", disk)
        at = (disk.host, disk.vm)
        if at not in self._world.disks:
            raise Refused("hypervisor_error", "the disk is lost")
        if at in self._world.domains or self._world.snapshots.get(at):
            raise Refused("hypervisor_error", "the disk is in use, or has snapshots")
        self._world.sizes[at] = max(self._world.sizes[at], disk.size)
        await self._world.trap("disks.grow:after", disk)


class DomainsTwin:
    def __init__(self, world: World) -> None:
        self._world = world

    async def boot(self, machine: Machine) -> dict[str, Any] | None:
        await self._world.trap("domains.boot:before", machine)
        at = (machine.host, machine.vm)
        if at not in self._world.disks or at not in self._world.seeds:
            raise Refused("hypervisor_error", "the domain's disk is missing")
        if self._world.domains.get(at, machine) != machine:
            self._off(machine)
        self._world.definitions[at] = machine
        await self._world.halfway()
        if at not in self._world.domains:
            self._world.domains[at] = machine
            self._world.boots.append(machine.vm)
        self._world.paused.discard(at)
        await self._world.trap("domains.boot:after", machine)
        return {"state": "running"}

    async def stop(self, stop: Stop) -> dict[str, Any]:
        await self._world.trap("domains.stop:before", stop.machine)
        await self._world.halfway()
        await self.power_off(stop.machine)
        await self._world.trap("domains.stop:after", stop.machine)
        return {"state": "shutoff"}

    async def suspend(self, machine: Machine) -> dict[str, Any]:
        await self._world.trap("domains.suspend:before", machine)
        self._world.paused.add(self._active(machine))
        await self._world.trap("domains.suspend:after", machine)
        return {"state": "paused"}

    async def resume(self, machine: Machine) -> dict[str, Any]:
        await self._world.trap("domains.resume:before", machine)
        self._world.paused.discard(self._active(machine))
        await self._world.trap("domains.resume:after", machine)
        return {"state": "running"}

    def _active(self, machine: Machine) -> tuple[str, str]:
        at = (machine.host, machine.vm)
        if at not in self._world.domains:
            raise Refused("invalid_state", "the VM is off by now")
        return at

    def _off(self, machine: Machine) -> None:
        at = (machine.host, machine.vm)
        self._world.domains.pop(at, None)
        self._world.paused.discard(at)
        self._world.reasons[machine.vm] = "destroyed"

    async def power_off(self, machine: Machine) -> None:
        await self._world.trap("domains.power_off:before", machine)
        self._off(machine)
        self._world.taken_down.discard(names.tap(machine.vm))
        await self._world.trap("domains.power_off:after", machine)

    async def destroy(self, machine: Machine) -> None:
        await self._world.trap("domains.destroy:before", machine)
        self._off(machine)
        await self._world.halfway()
        self._world.definitions.pop((machine.host, machine.vm), None)
        await self._world.trap("domains.destroy:after", machine)

    async def redefine(self, machine: Machine) -> None:
        await self._world.trap("domains.redefine:before", machine)
        if (machine.host, machine.vm) in self._world.domains:
            raise Refused("internal", "a domain that runs is not what is defined for it")
        self._world.definitions[machine.host, machine.vm] = machine
        await self._world.trap("domains.redefine:after", machine)


class SnapshotsTwin:
    """Snapshots by name: their marks, and the states that their VMs were in."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _of(self, machine: Machine) -> dict[str, tuple[str, str]]:
        at = (machine.host, machine.vm)
        if at not in self._world.definitions:
            raise Refused("hypervisor_error", "no domain")
        return self._world.snapshots.setdefault(at, {})

    async def take(self, snapshot: Snapshot) -> None:
        await self._world.trap("snapshots.take:before", snapshot.machine)
        known = self._of(snapshot.machine)
        state = self._world.state_of(snapshot.machine)
        if known.setdefault(snapshot.name, (snapshot.mark, state))[0] != snapshot.mark:
            raise Refused("invalid_state", "another snapshot of that name is there")
        await self._world.trap("snapshots.take:after", snapshot.machine)

    async def take_back(self, snapshot: Snapshot) -> None:
        await self._world.trap("snapshots.take_back:before", snapshot.machine)
        known = self._of(snapshot.machine)
        if known.get(snapshot.name, ("", ""))[0] == snapshot.mark:
            del known[snapshot.name]
        await self._world.trap("snapshots.take_back:after", snapshot.machine)

    async def revert(self, revert: Revert) -> dict[str, Any]:
        machine = revert.start.machine
        await self._world.trap("snapshots.revert:before", machine)
        at = (machine.host, machine.vm)
        if at not in self._world.domains:
            known = self._of(machine)
            if revert.name not in known:
                raise Refused("hypervisor_error", "no such snapshot any more")
            if known[revert.name][1] != "shutoff":
                self._world.domains[at] = machine
                self._world.boots.append(machine.vm)
            if known[revert.name][1] == "paused":
                self._world.paused.add(at)
        await self._world.trap("snapshots.revert:after", machine)
        return {"state": self._world.state_of(machine)}

    async def delete(self, snapshot: Snapshot) -> None:
        await self._world.trap("snapshots.delete:before", snapshot.machine)
        self._of(snapshot.machine).pop(snapshot.name, None)
        await self._world.trap("snapshots.delete:after", snapshot.machine)


def _mark(world: World, vni: int) -> str | None:
    """Return the mark of a gateway, empty for a part of one, as the real look does."""
    if vni in world.gateways and vni in world.firewalls:
        return mark(world.gateways[vni])
    return "" if vni in world.gateways or vni in world.firewalls else None


class GuardsTwin:
    """Keeps the flows of a world's guards; `unseen` guards do not answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.unseen: set[str] = set()

    def _wanted(self) -> dict[tuple[str, str], str]:
        """Return whose flows should be there: hosts and VMs, with their slices."""
        return {
            (host, port.vm or ""): self._world.tapped[tap][0]
            for host, taps in self._world.guards.items()
            for tap, port in taps.items()
        }

    async def look(self) -> tuple[list[WrongFlows], dict[str, str]]:
        wanted, there = self._wanted(), self._world.flows
        lacking = [WrongFlows(*at, wanted[at], "lost") for at in sorted(wanted.keys() - there)]
        strange = [
            WrongFlows(host, None, None, "no VM's") for host, _ in sorted(there - wanted.keys())
        ]
        silent = {f"guard of {host}": "no answer" for host in self.unseen}
        return [one for one in lacking + strange if one.host not in self.unseen], silent

    def hurry(self) -> None:
        self._world.flows = {*self._wanted()}


class LookTwin:
    """Sees a world as inventories do; `unseen` places do not answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.unseen: set[str] = set()

    async def look(self) -> tuple[Present, dict[str, str]]:
        world = self._world
        present = Present(
            switches={
                host: self._switch(host)
                for host in ("node", "h1", "h2")
                if f"switch of {host}" not in self.unseen
            },
            hosts={host: self._host(host) for host in {"h1", "h2"} - self.unseen},
            node=tuple(
                SeenSlice(
                    vni=vni,
                    slice=world.owners.get(("node", vni), "demo"),
                    joined=True,
                    dhcp=dhcp_files.mark(world.dhcp[vni]) if vni in world.dhcp else None,
                    gateway=_mark(world, vni),
                )
                for vni in world.namespaces
            ),
        )
        return present, dict.fromkeys(self.unseen, "it does not answer")

    async def inventory(self, host: str) -> tuple[Found, ...]:
        return self._host(host).domains

    async def find(self, host: str, vm: str) -> Found | None:
        return next((one for one in self._host(host).domains if one.vm == vm), None)

    def _switch(self, host: str) -> Inventory:
        here = {vni: ports for (at, vni), ports in self._world.bridges.items() if at == host}
        shared = here.pop(0, None)
        owners = {vni: self._world.owners[host, vni] for vni in here}
        return Inventory(
            bridges=tuple(
                SeenBridge(
                    name=names.bridge(vni),
                    slice=owner,
                    vni=vni,
                    about=self._world.abouts.get((host, vni), ""),
                    targets=tuple(filter(None, [self._world.targets.get((host, vni))])),
                    secure=(host, vni) in self._world.targets,
                    export=self._world.exports.get((host, vni)),
                )
                for vni, owner in owners.items()
            ),
            ports=tuple(
                SeenPort(
                    name=name,
                    slice=owners[vni],
                    host=host,
                    vm=None,
                    kind=port.kind,
                    bridge=names.bridge(vni),
                    ofport=1,
                    error=None,
                )
                for vni, ports in here.items()
                for name, port in ports.items()
            )
            + tuple(self._guarded(host)),
            control=None
            if shared is None
            else SeenControl(
                uses={whose: frozenset(uses) for whose, uses in self._world.controls[host].items()},
                address=self._world.addresses[host],
                ports=frozenset(shared),
            ),
        )

    def _guarded(self, host: str) -> Iterator[SeenPort]:
        for tap, port in self._world.guards.get(host, {}).items():
            slice_name, vni = self._world.tapped[tap]
            seen = SeenPort(
                name=tap,
                slice=slice_name,
                host=host,
                vm=port.vm,
                kind=port.kind,
                bridge=names.GUARD,
                ofport=1,
                error=None,
                vni=vni,
                mac=port.mac,
                ip=port.ip,
                bandwidth=port.bandwidth,
                export=port.export,
            )
            yield seen
            patch = names.guard_patch(port.vm or "")
            yield replace(seen, name=patch, vm=None, mac=None, ip=None, bandwidth=None, export=None)

    def _host(self, host: str) -> SeenHost:
        world = self._world
        there = {**world.definitions, **world.domains}
        machines = [one for (at, _), one in there.items() if at == host]
        disks = [vm for at, vm in self._world.disks if at == host]
        return SeenHost(
            domains=tuple(
                Found(
                    vm=one.vm,
                    state=world.state_of(one),
                    reason=world.reason_of(one),
                    snapshots=tuple(world.snapshots.get((host, one.vm), ())),
                    owner=Owner(
                        slice=one.slice,
                        name=one.name,
                        kind=one.kind,
                        mac=one.mac,
                        digest="",
                        about=one.about,
                    ),
                )
                for one in machines
            ),
            volumes=frozenset(
                name(vm)
                for vm in disks
                for name in (names.disk_volume, names.seed_volume, names.serial_log)
            ),
        )
