"""The slice's network as values: what a switch, a namespace and a DHCP server shall hold.

They are the arguments of workflow steps, stored as JSON with the plan: fields may be added with
a default, never renamed.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """Who is told what passes a slice's bridges: a collector of sFlow, one of IPFIX, or both.

    Each is `ADDRESS:PORT`, an IPv6 address in brackets; UDP.
    """

    sflow: str | None = None
    ipfix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a bridge, or the guard of a VM, tells collectors: one packet of `sampling`, by chance.

    Every `polling` seconds sFlow tells its ports' counters, and IPFIX the flows that it has put
    together meanwhile.
    """

    to: Monitoring
    sampling: int
    polling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of a slice's bridge; the OVSDB Interface row carries the owner's tags.

    `system` is a Linux link that somebody else makes (a tap by libvirt, a veth end by ccfd): its
    row may stand before the link does, the switch picks the link up when it appears. A port with
    `vm` is that VM's tap: it is plugged into the guard (docs/adr/0019), which lets nothing pass to
    the slice's bridge but what comes from `mac` and, where they are given, the IPv4 address `ip`,
    and no more than `bandwidth` (Mbit/s), which holds for what goes to it as well. Of what it lets
    pass from the VM it tells collectors of IPFIX what `export` says.
    """

    name: str
    kind: Literal["system", "vxlan"]
    remote_ip: str | None = None
    vm: str | None = None
    mac: str | None = None
    ip: str | None = None
    bandwidth: int | None = None
    export: Export | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A slice's OpenFlow controller; `address` is IPv4 or IPv6, `vm` the VM that ccfd made for it.

    Without `vm` it is one of the tenant's own.
    """

    address: str
    port: int
    vm: str | None = None

    @property
    def target(self) -> str:
        """How Open vSwitch calls it: `tcp:192.0.2.9:6633`, `tcp:[2001:db8::9]:6633`."""
        return (
            f"tcp:[{self.address}]:{self.port}"
            if ":" in self.address
            else (f"tcp:{self.address}:{self.port}")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The bridge of slice `slice` on `host` (a host's name, or `names.NODE`) with its ports.

    `about` is what the bridge tells of its slice (`handlers.tags`). Without a controller it
    forwards by itself, without an export it tells nobody what passes it.
    """

    host: str
    slice: str
    vni: int
    ports: tuple[Port, ...] = ()
    about: str = ""
    controller: Controller | None = None
    export: Export | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeChange:
    """A change of a bridge that stands, with the way back."""

    before: Bridge
    after: Bridge


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What one slice (`slice`, `vni`) needs of the control network on the switch of `host`.

    `address` is that switch's own on it, with its prefix; `mtu` in bytes. Each of `uses` is the
    tunnel address of a switch to be reached from here, or empty for the bridge itself; None means
    all that the slice uses here.
    """

    host: str
    slice: str
    vni: int
    address: str
    mtu: int
    uses: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports that join, or leave, a bridge that stands already."""

    host: str
    slice: str
    vni: int
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """The slice's namespace on the network node and its leg into the slice's bridge.

    `address` is the subnet's first usable address with its prefix, `10.0.0.1/26`; `mtu` in bytes.
    """

    slice: str
    vni: int
    address: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The slice's way out of its namespace: a leg, source NAT and a firewall.

    `inside` and `outside` are its addresses with their prefixes, `mac` is the outer leg's;
    `router` is where all that is further away is sent, or None for nowhere. `closed` are networks
    and addresses that nobody reaches by this way.
    """

    slice: str
    vni: int
    inside: str
    outside: str
    mac: str
    router: str | None = None
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A static DHCP lease."""

    mac: str
    ip: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp:
    """The slice's DHCP server: it answers exactly `leases`, in the slice's namespace.

    `router` is the default gateway to hand out, or None for a slice without one; `dns` and `ntp`
    are addresses of servers (options 6 and 42); `mtu` in bytes (option 26).
    """

    slice: str
    vni: int
    address: str
    mtu: int
    router: str | None = None
    dns: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpChange:
    """A change of a running DHCP server's leases, with the way back."""

    before: Dhcp
    after: Dhcp
