"""Every effect that ccfd can have on a host, with its undo on the same line.

The names are stored with each workflow's steps and live as long as the database.
"""

from typing import Protocol

from ccfd.errors import Transient
from ccfd.model.network import Bridge, BridgeChange, Control, Dhcp, DhcpChange, Namespace, Ports
from ccfd.model.vm import Disk, ImageListing, ImageOnHost, Machine, Start, Stop
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


class Images(Protocol):
    """The image store, and the base images on the hosts."""

    async def list(self, wanted: ImageListing) -> Value: ...
    async def fetch(self, wanted: ImageOnHost) -> None: ...


class Disks(Protocol):
    """The VMs' disks."""

    async def make(self, disk: Disk) -> None: ...
    async def remove(self, disk: Disk) -> None: ...


class Domains(Protocol):
    """The VMs' libvirt domains."""

    async def boot(self, machine: Machine) -> Value: ...
    async def stop(self, stop: Stop) -> Value: ...
    async def suspend(self, machine: Machine) -> Value: ...
    async def resume(self, machine: Machine) -> Value: ...
    async def power_off(self, machine: Machine) -> None: ...
    async def destroy(self, machine: Machine) -> None: ...


def effects(
    *,
    fabric: Fabric,
    namespaces: Namespaces,
    dhcp: DhcpServers,
    images: Images,
    disks: Disks,
    domains: Domains,
) -> Effects:
    """Join the effects with the drivers that have them."""

    async def boot(start: Start) -> Value:
        # A switch that had opened the tap of an earlier attempt would not notice the next one:
        # plugging it in first costs one look where there was none (docs/adr/0006).
        await fabric.plug(start.port)
        value = await domains.boot(start.machine)
        if not await fabric.carries(start.port):
            await domains.power_off(start.machine)
            raise Transient(
                "switch_error",
                f"the switch of {start.port.host} took the new link of VM {start.machine.vm} down:"
                " the VM is started again",
                retry_in=0,
            )
        return value

    async def destroy(start: Start) -> None:
        await domains.destroy(start.machine)

    async def power_off(start: Start) -> None:
        await domains.power_off(start.machine)

    async def resume(machine: Machine) -> None:
        await domains.resume(machine)

    async def suspend(machine: Machine) -> None:
        await domains.suspend(machine)

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
        "make-disk": Effect(Disk, disks.make, disks.remove),
        "boot": Effect(Start, boot, destroy),
        # A VM that was there before stays defined, with its snapshots.
        "start-vm": Effect(Start, boot, power_off),
        "suspend-vm": Effect(Machine, domains.suspend, resume),
        "resume-vm": Effect(Machine, domains.resume, suspend),
        # What deletes, or loses what a guest has in memory, only goes forward.
        "stop-vm": Effect(Stop, domains.stop, None),
        "destroy-vm": Effect(Machine, domains.destroy, None),
        "remove-disk": Effect(Disk, disks.remove, None),
        "remove-ports": Effect(Ports, fabric.unplug, None),
        "leave-control": Effect(Control, fabric.leave, None),
        "remove-bridge": Effect(Bridge, fabric.remove, None),
        "stop-dhcp": Effect(Dhcp, dhcp.stop, None),
        "close-namespace": Effect(Namespace, namespaces.close, None),
    }
