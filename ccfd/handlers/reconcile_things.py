"""What hosts hold for slices, as names, and the steps that make or remove it: pure.

A thing is known by its kind, its name and its place, on both sides of the comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ccfd.handlers import control_layout
from ccfd.handlers.gateway_layout import gateways
from ccfd.handlers.layout import Layout
from ccfd.model import names
from ccfd.model.network import Bridge, Control, Dhcp, Gateway, Namespace, Ports
from ccfd.model.slice import PlannedSlice
from ccfd.model.vm import Disk, Image, Machine, Start
from ccfd.requests.events import Body
from ccfd.workflow.steps import Steps, each, only_forward

Kind = Literal["bridge", "namespace", "dhcp", "gateway", "control", "domain", "disk"]


class Thing(Body):
    """One thing on one host (`names.NODE`: the network node). `disk` is a disk with its seed."""

    kind: Kind
    name: str
    host: str

    @property
    def of(self) -> str:
        """Whom it is for: the id of its VM, or its slice's VNI."""
        return self.name.removeprefix(names.PREFIX)


def bridge(vni: int, switch: str) -> Thing:
    """Name a bridge with all its ports and tunnels."""
    return Thing(kind="bridge", name=names.bridge(vni), host=switch)


def namespace(vni: int) -> Thing:
    """Name a namespace."""
    return Thing(kind="namespace", name=names.namespace(vni), host=names.NODE)


def dhcp(vni: int) -> Thing:
    """Name a DHCP server: it is called as its namespace."""
    return Thing(kind="dhcp", name=names.namespace(vni), host=names.NODE)


def gateway(vni: int) -> Thing:
    """Name a gateway: it is called as its namespace."""
    return Thing(kind="gateway", name=names.namespace(vni), host=names.NODE)


def control(vni: int, switch: str) -> Thing:
    """Name a slice's part of the control network on a switch."""
    return Thing(kind="control", name=names.bridge(vni), host=switch)


def domain(vm: str, host: str) -> Thing:
    """Name a VM's domain."""
    return Thing(kind="domain", name=names.domain(vm), host=host)


def disk(vm: str, host: str) -> Thing:
    """Name a VM's volumes."""
    return Thing(kind="disk", name=names.domain(vm), host=host)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedSlice:
    """What a slice that nobody works on shall have. `starts` are of VMs that shall run.

    `control` are its parts of the control network, `taps` its controllers' ports there.
    """

    name: str
    namespace: Namespace
    bridges: tuple[Bridge, ...]
    dhcp: tuple[Dhcp, ...]
    starts: tuple[Start, ...]
    control: tuple[Control, ...] = ()
    taps: tuple[Ports, ...] = ()
    gateway: tuple[Gateway, ...] = ()

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The domains of those VMs."""
        return tuple(start.machine for start in self.starts)

    @property
    def vni(self) -> int:
        """The slice's VNI."""
        return self.namespace.vni

    def things(self) -> frozenset[Thing]:
        """Name all of it."""
        return frozenset(
            [
                namespace(self.vni),
                *(bridge(one.vni, one.host) for one in self.bridges),
                *(dhcp(one.vni) for one in self.dhcp),
                *(gateway(one.vni) for one in self.gateway),
                *(control(one.vni, one.host) for one in self.control),
                *(domain(one.vm, one.host) for one in self.machines),
            ]
        )


def wanted_slice(layout: Layout, planned: PlannedSlice, states: Mapping[str, str]) -> WantedSlice:
    """Derive what *planned* shall have, by the layout of its steps; *states* are its VMs'.

    Raises `Refused` (`host_not_found`) where the settings do not name a VM's host any more.
    """
    running = [vm for vm in planned.vms if states.get(vm.id) == "running"]
    return WantedSlice(
        name=planned.name,
        namespace=layout.namespace(planned),
        bridges=layout.bridges(planned),
        dhcp=layout.dhcp(planned),
        starts=layout.starts(planned, running),
        control=control_layout.parts(layout, planned),
        taps=control_layout.taps(layout, planned, planned.vms),
        gateway=gateways(layout, planned),
    )


def put_back(wanted: WantedSlice, missing: frozenset[Thing]) -> Steps:
    """List the steps that put *missing* back, with what must be made anew because of it.

    - A server that outlived its namespace's name is ended while it can still be found.
    - A leg made anew must be plugged in by the node's bridge, after it; a DHCP server follows.
    - A gateway is gone with its namespace.
    """
    opened = namespace(wanted.vni) in missing
    booted = [one for one in wanted.starts if domain(one.machine.vm, one.machine.host) in missing]
    made = [
        one
        for one in wanted.bridges
        if bridge(one.vni, one.host) in missing or (opened and one.host == names.NODE)
    ]
    served = opened or dhcp(wanted.vni) in missing
    way_out = wanted.gateway if opened or gateway(wanted.vni) in missing else ()
    joined = [one for one in wanted.control if control(one.vni, one.host) in missing]
    switches = {one.host for one in joined}
    return only_forward(
        each("stop-dhcp", wanted.dhcp if opened else ()),
        each("open-namespace", [wanted.namespace] if opened else ())
        + each("join-control", joined)
        + each("make-bridge", [one for one in made if one.host != names.NODE]),
        each("make-bridge", [one for one in made if one.host == names.NODE])
        + each("add-ports", [one for one in wanted.taps if one.host in switches])
        + each("serve-dhcp", wanted.dhcp if served else ())
        + each("open-gateway", way_out),
        each("boot", booted),
    )


def remove(owner: str, orphans: Sequence[Thing]) -> Steps:
    """List the steps that remove *orphans* of the slice *owner*; each looks at the tags again."""

    def of(kind: Kind) -> list[Thing]:
        return [one for one in orphans if one.kind == kind]

    # A namespace goes with all files of its slice: those of a server that is dead, too.
    served = sorted({int(one.of) for one in (*of("dhcp"), *of("namespace"))})
    ways_out = sorted({int(one.of) for one in (*of("gateway"), *of("namespace"))})
    return only_forward(
        each("destroy-vm", [_machine(owner, one) for one in of("domain")])
        + each("stop-dhcp", [Dhcp(slice=owner, vni=vni, address="", mtu=0) for vni in served])
        + each(
            "close-gateway",
            [Gateway(slice=owner, vni=vni, inside="", outside="", mac="") for vni in ways_out],
        ),
        each("remove-disk", [_disk(one) for one in of("disk")])
        + each(
            "leave-control",
            [
                Control(host=one.host, slice=owner, vni=int(one.of), address="", mtu=0)
                for one in of("control")
            ],
        )
        + each(
            "remove-bridge",
            [Bridge(host=one.host, slice=owner, vni=int(one.of)) for one in of("bridge")],
        )
        + each(
            "close-namespace",
            [
                Namespace(slice=owner, vni=int(one.of), address="", mac="", mtu=0)
                for one in of("namespace")
            ],
        ),
    )


def _machine(owner: str, orphan: Thing) -> Machine:
    """Describe a domain by what its removal asks for: host and VM."""
    return Machine(
        host=orphan.host,
        vm=orphan.of,
        name="",
        slice=owner,
        kind="slice",
        cpu=0,
        ram=0,
        mac="",
        tap=names.tap(orphan.of),
        mtu=0,
    )


def _disk(orphan: Thing) -> Disk:
    """Describe a disk by what its removal asks for: host and VM."""
    nothing = Image(name="", checksum="", size=0, virtual_size=0)
    return Disk(host=orphan.host, vm=orphan.of, image=nothing, size=0, hostname="")
