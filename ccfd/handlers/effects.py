"""Every effect that ccfd can have on a host, with its undo on the same line.

The names are stored with each workflow's steps and live as long as the database.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from ccfd.errors import Refused, Transient
from ccfd.model.network import (
    Bridge,
    BridgeChange,
    Control,
    Dhcp,
    DhcpChange,
    Gateway,
    Namespace,
    Ports,
)
from ccfd.model.vm import (
    Disk,
    ImageListing,
    ImageOnHost,
    Machine,
    Redefinition,
    Revert,
    Snapshot,
    Start,
    Stop,
)
from ccfd.workflow.steps import Effect, Effects, Value


class Fabric(Protocol):
    """The switches."""

    async def make(self, bridge: Bridge) -> None: ...
    async def remove(self, bridge: Bridge) -> None: ...
    async def change(self, change: BridgeChange) -> None: ...
    async def change_back(self, change: BridgeChange) -> None: ...
    async def plug(self, ports: Ports) -> None: ...
    async def unplug(self, ports: Ports) -> None: ...
    async def join(self, part: Control) -> None: ...
    async def leave(self, part: Control) -> None: ...
    async def carries(self, ports: Ports) -> bool: ...
    async def shape(self, ports: Ports) -> None: ...


class Namespaces(Protocol):
    """The slices' namespaces on the network node."""

    async def open(self, namespace: Namespace) -> None: ...
    async def close(self, namespace: Namespace) -> None: ...


class DhcpServers(Protocol):
    """The slices' DHCP servers."""

    async def serve(self, dhcp: Dhcp) -> None: ...
    async def stop(self, dhcp: Dhcp) -> None: ...
    async def change(self, change: DhcpChange) -> None: ...
    async def change_back(self, change: DhcpChange) -> None: ...


class Gateways(Protocol):
    """The slices' ways out."""

    async def open(self, gateway: Gateway) -> None: ...
    async def close(self, gateway: Gateway) -> None: ...


class Images(Protocol):
    """The image store, and the base images on the hosts."""

    async def list(self, wanted: ImageListing) -> Value: ...
    async def fetch(self, wanted: ImageOnHost) -> None: ...


class Disks(Protocol):
    """The VMs' disks."""

    async def make(self, disk: Disk) -> None: ...
    async def grow(self, disk: Disk) -> None: ...
    async def remove(self, disk: Disk) -> None: ...


class Snapshots(Protocol):
    """The VMs' snapshots."""

    async def take(self, snapshot: Snapshot) -> None: ...
    async def take_back(self, snapshot: Snapshot) -> None: ...
    async def revert(self, revert: Revert) -> Value: ...
    async def delete(self, snapshot: Snapshot) -> None: ...


class Domains(Protocol):
    """The VMs' libvirt domains."""

    async def boot(self, machine: Machine) -> Value: ...
    async def stop(self, stop: Stop) -> Value: ...
    async def suspend(self, machine: Machine) -> Value: ...
    async def resume(self, machine: Machine) -> Value: ...
    async def redefine(self, machine: Machine) -> None: ...
    async def power_off(self, machine: Machine) -> None: ...
    async def destroy(self, machine: Machine) -> None: ...


class _Vms:
    """What is several drivers' business, or one's to be called in another way."""

    def __init__(self, fabric: Fabric, domains: Domains, snapshots: Snapshots) -> None:
        self._fabric = fabric
        self._domains = domains
        self._snapshots = snapshots

    async def _on_the_network(self, start: Start, begin: Callable[[], Awaitable[Value]]) -> Value:
        """Have *begin* make a VM run whose domain is off, and its new tap taken up."""
        # A switch that had opened the tap of an earlier run would not notice the next one:
        # plugging it in first costs one look where there was none (docs/adr/0006).
        await self._fabric.plug(start.port)
        value = await begin()
        runs = value is None or value["state"] != "shutoff"
        if runs and not await self._fabric.carries(start.port):
            await self._domains.power_off(start.machine)
            raise Transient(
                "switch_error",
                f"the switch of {start.port.host} took the new link of VM {start.machine.vm} down:"
                " the VM is started again",
                retry_in=0,
            )
        if runs:
            await self._fabric.shape(start.port)
        return value

    async def boot(self, start: Start) -> Value:
        return await self._on_the_network(start, lambda: self._domains.boot(start.machine))

    async def boot_again(self, start: Start) -> None:
        await self.boot(start)

    async def interrupt(self, start: Start) -> Value:
        return await self._domains.stop(Stop(machine=start.machine))

    async def revert(self, revert: Revert) -> Value:
        return await self._on_the_network(revert.start, lambda: self._snapshots.revert(revert))

    async def redefine(self, change: Redefinition) -> None:
        await self._domains.redefine(change.after)

    async def redefine_back(self, change: Redefinition) -> None:
        await self._domains.redefine(change.before)

    async def destroy(self, start: Start) -> None:
        await self._domains.destroy(start.machine)

    async def power_off(self, start: Start) -> None:
        await self._domains.power_off(start.machine)

    async def resume(self, machine: Machine) -> None:
        await self._domains.resume(machine)

    async def suspend(self, machine: Machine) -> None:
        await self._domains.suspend(machine)


def effects(
    *,
    fabric: Fabric,
    namespaces: Namespaces,
    dhcp: DhcpServers,
    gateways: Gateways,
    images: Images,
    disks: Disks,
    domains: Domains,
    snapshots: Snapshots,
) -> Effects:
    """Join the effects with the drivers that have them."""
    vms = _Vms(fabric, domains, snapshots)

    async def make_disk(disk: Disk) -> None:
        try:
            await disks.make(disk)
        except Refused as exc:
            if exc.code != "image_not_found":
                raise
            # It was taken away since it was fetched: without use, or by hand (docs/adr/0018).
            await images.fetch(ImageOnHost(host=disk.host, image=disk.image))
            await disks.make(disk)

    return {
        "list-images": Effect(ImageListing, images.list, None),
        # Base images belong to no workflow: they stay for the next VM.
        "fetch-image": Effect(ImageOnHost, images.fetch, None),
        "make-bridge": Effect(Bridge, fabric.make, fabric.remove),
        "change-bridge": Effect(BridgeChange, fabric.change, fabric.change_back),
        # Shared with other slices: each says what it uses, and the last one takes it away.
        "join-control": Effect(Control, fabric.join, fabric.leave),
        "add-ports": Effect(Ports, fabric.plug, fabric.unplug),
        "open-namespace": Effect(Namespace, namespaces.open, namespaces.close),
        "serve-dhcp": Effect(Dhcp, dhcp.serve, dhcp.stop),
        "change-dhcp": Effect(DhcpChange, dhcp.change, dhcp.change_back),
        "open-gateway": Effect(Gateway, gateways.open, gateways.close),
        "make-disk": Effect(Disk, make_disk, disks.remove),
        "boot": Effect(Start, vms.boot, vms.destroy),
        # A VM that was there before stays defined, with its snapshots.
        "start-vm": Effect(Start, vms.boot, vms.power_off),
        "suspend-vm": Effect(Machine, domains.suspend, vms.resume),
        "resume-vm": Effect(Machine, domains.resume, vms.suspend),
        "interrupt-vm": Effect(Start, vms.interrupt, vms.boot_again),
        "redefine-vm": Effect(Redefinition, vms.redefine, vms.redefine_back),
        "take-snapshot": Effect(Snapshot, snapshots.take, snapshots.take_back),
        # A guest may have used a disk that has grown.
        "grow-disk": Effect(Disk, disks.grow, None),
        # What deletes, or loses what a guest has in memory, only goes forward.
        "stop-vm": Effect(Stop, domains.stop, None),
        "revert-vm": Effect(Revert, vms.revert, None),
        "delete-snapshot": Effect(Snapshot, snapshots.delete, None),
        "destroy-vm": Effect(Machine, domains.destroy, None),
        "remove-disk": Effect(Disk, disks.remove, None),
        "remove-ports": Effect(Ports, fabric.unplug, None),
        "leave-control": Effect(Control, fabric.leave, None),
        "remove-bridge": Effect(Bridge, fabric.remove, None),
        "close-gateway": Effect(Gateway, gateways.close, None),
        "stop-dhcp": Effect(Dhcp, dhcp.stop, None),
        "close-namespace": Effect(Namespace, namespaces.close, None),
    }
