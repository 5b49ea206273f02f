"""What a slice shall have on every host and on the network node: pure, from its plan.

Tunnels form a star around the network node, which stays free of loops under any controller that
a tenant may attach (docs/adr/0002). A compute host that is the network node itself shares the
node's bridge and needs no tunnel.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ccfd.errors import Refused
from ccfd.handlers import tags
from ccfd.ipam import control
from ccfd.model import names
from ccfd.model.network import Bridge, Dhcp, Export, Lease, Monitoring, Namespace, Port, Ports
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.model.vm import Disk, ImageOnHost, Link, Machine, Start
from ccfd.settings import Settings


@dataclass(frozen=True, slots=True)
class Layout:
    """Derives what belongs where from plans."""

    settings: Settings

    def switch_of(self, host: str) -> str:
        """Return whose switch carries the VMs of *host*: its own, or the network node's."""
        tunnel_ip = self.tunnel_ip(host)
        return names.NODE if tunnel_ip == self.settings.network_node.tunnel_ip else host

    def tunnel_ip(self, host: str) -> str:
        """Return where *host* ends tunnels."""
        known = next((one for one in self.settings.host if one.name == host), None)
        if known is None:
            raise Refused(
                "host_not_found", f"{host} has VMs, but no [[host]] in the settings: put it back"
            )
        return known.tunnel_ip

    def bridges(self, planned: PlannedSlice) -> tuple[Bridge, ...]:
        """List the slice's bridges: the network node's first, then one a host that needs it."""
        by_switch: dict[str, list[PlannedVm]] = {names.NODE: []}
        for vm in planned.vms:
            if vm.kind == "controller":  # it is on the control network
                continue
            by_switch.setdefault(self.switch_of(vm.host), []).append(vm)
        node = self.settings.network_node.tunnel_ip
        peers = [self.tunnel_ip(host) for host in by_switch if host != names.NODE]
        about, bridges = tags.of_slice(planned), []
        for switch, vms in by_switch.items():
            if switch == names.NODE:
                inside = Port(name=names.inside_port(planned.vni), kind="system")
                fixed = (inside, *(self._tunnel(planned, peer) for peer in sorted(peers)))
            else:
                fixed = (self._tunnel(planned, node),)
            bridges.append(
                Bridge(
                    host=switch,
                    slice=planned.name,
                    vni=planned.vni,
                    ports=(*fixed, *(self._tap(planned, vm) for vm in vms)),
                    about=about,
                    controller=planned.controller,
                    export=self._export(planned),
                )
            )
        return tuple(bridges)

    def _export(self, planned: PlannedSlice) -> Export | None:
        if planned.monitoring is None:
            return None
        slices = self.settings.slices
        return Export(to=planned.monitoring, sampling=slices.sampling, polling=slices.polling)

    def _tunnel(self, planned: PlannedSlice, peer: str) -> Port:
        return Port(name=names.tunnel(planned.vni, peer), kind="vxlan", remote_ip=peer)

    def _told(self, planned: PlannedSlice, vm: PlannedVm) -> Export | None:
        """Say what the guard tells of a VM: there sFlow could not tell slices apart."""
        export = self._export(planned)
        if export is None or export.to.ipfix is None or vm.kind == "controller":
            return None
        return replace(export, to=Monitoring(ipfix=export.to.ipfix))

    def _tap(self, planned: PlannedSlice, vm: PlannedVm) -> Port:
        return Port(
            name=names.tap(vm.id),
            kind="system",
            vm=vm.id,
            mac=vm.mac,
            ip=vm.ip,
            bandwidth=vm.bandwidth,
            export=self._told(planned, vm),
        )

    def namespace(self, planned: PlannedSlice) -> Namespace:
        """Describe the slice's namespace on the network node."""
        return Namespace(
            slice=planned.name,
            vni=planned.vni,
            address=planned.address,
            mac=names.mac(planned.address.partition("/")[0], planned.vni),
            mtu=self.settings.vm_mtu,
        )

    def dhcp(self, planned: PlannedSlice) -> tuple[Dhcp, ...]:
        """Describe the slice's DHCP server, if it has one."""
        if not planned.dhcp:
            return ()
        leases = tuple(Lease(mac=vm.mac, ip=vm.ip, name=vm.name) for vm in planned.vms if vm.dhcp)
        return (
            Dhcp(
                slice=planned.name,
                vni=planned.vni,
                address=planned.address,
                mtu=self.settings.vm_mtu,
                router=planned.address.partition("/")[0] if planned.gateway else None,
                # Servers that cannot be reached would only make every look-up slow.
                dns=self.settings.network_node.dns if planned.gateway else (),
                ntp=self.settings.network_node.ntp if planned.gateway else (),
                leases=leases,
            ),
        )

    def images(self, vms: Iterable[PlannedVm]) -> tuple[ImageOnHost, ...]:
        """List the base images that hosts need for *vms*, each once."""
        wanted = {(vm.host, vm.image.checksum): vm for vm in vms}
        return tuple(ImageOnHost(host=vm.host, image=vm.image) for vm in wanted.values())

    def disks(self, planned: PlannedSlice, vms: Iterable[PlannedVm]) -> tuple[Disk, ...]:
        """Describe the disks of *vms*."""
        return tuple(
            Disk(
                host=vm.host,
                vm=vm.id,
                image=vm.image,
                size=vm.disk,
                hostname=vm.name,
                link=self._link(vm),
                ssh_keys=(*planned.ssh_keys, *([planned.ssh_key] if planned.ssh_key else [])),
            )
            for vm in vms
        )

    def _link(self, vm: PlannedVm) -> Link | None:
        """Say what a controller is told of its address: no DHCP server answers it."""
        if vm.kind != "controller":
            return None
        prefix = control.configured(self.settings).cidr.partition("/")[2]
        return Link(mac=vm.mac, address=f"{vm.ip}/{prefix}", mtu=self.settings.vm_mtu)

    def machines(self, planned: PlannedSlice, vms: Iterable[PlannedVm]) -> tuple[Machine, ...]:
        """Describe the libvirt domains of *vms*."""
        return tuple(
            Machine(
                host=vm.host,
                vm=vm.id,
                name=vm.name,
                slice=planned.name,
                kind=vm.kind,
                cpu=vm.cpu,
                ram=vm.ram,
                mac=vm.mac,
                tap=names.tap(vm.id),
                mtu=self.settings.vm_mtu,
                about=tags.of_vm(vm),
            )
            for vm in vms
        )

    def starts(self, planned: PlannedSlice, vms: Iterable[PlannedVm]) -> tuple[Start, ...]:
        """Describe the starts of *vms*."""
        chosen = tuple(vms)
        return tuple(
            Start(
                machine=machine,
                port=Ports(
                    host=self.switch_of(vm.host),
                    slice=planned.name,
                    vni=names.CONTROL_VNI if vm.kind == "controller" else planned.vni,
                    ports=(self._tap(planned, vm),),
                ),
            )
            for vm, machine in zip(chosen, self.machines(planned, chosen), strict=True)
        )

    def grown(
        self, before: PlannedSlice, after: PlannedSlice
    ) -> tuple[tuple[Bridge, ...], tuple[Ports, ...]]:
        """Say what *after* has that *before* has not: whole bridges, and ports on the others."""
        old = {bridge.host: bridge for bridge in self.bridges(before)}
        bridges, ports = [], []
        for bridge in self.bridges(after):
            if bridge.host not in old:
                bridges.append(bridge)
                continue
            more = tuple(port for port in bridge.ports if port not in old[bridge.host].ports)
            if more:
                ports.append(
                    Ports(host=bridge.host, slice=bridge.slice, vni=bridge.vni, ports=more)
                )
        return tuple(bridges), tuple(ports)
