"""How everything that ccfd makes is named.

Names are functions of what they belong to, so that a step that runs twice finds its own work,
and an operator can tell from a name whose it is. Linux link names have at most 15 characters
(IFNAMSIZ - 1); VNIs have at most 24 bits.
"""

import hashlib
import ipaddress

NODE = "node"
"""The network node where it stands in place of a host's name (see `is_reserved`)."""

PREFIX = "ccf-"
CONTROL_VNI = 0
"""The VNI of the control network, which no slice has: its bridge is `ccf-0` everywhere."""
GUARD = "ccf-guard"
"""The bridge of each switch that VMs are plugged into: docs/adr/0019."""


def bridge(vni: int) -> str:
    """Name a slice's bridge, the same on every host: `ccf-1001`."""
    return f"{PREFIX}{vni}"


def vni_of(bridge: str) -> int | None:
    """Return the VNI that a bridge is named after; None for one that is no slice's."""
    digits = bridge.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() and bridge != digits else None


def namespace(vni: int) -> str:
    """Name a slice's network namespace on the network node: `ccf-1001`."""
    return f"{PREFIX}{vni}"


def inside_port(vni: int) -> str:
    """Name the bridge's end of the veth pair that joins the namespace: `ccf-i-1001`."""
    return f"{PREFIX}i-{vni}"


def outside_port(vni: int) -> str:
    """Name the outer end of the veth pair that leads out of the namespace: `ccf-o-1001`."""
    return f"{PREFIX}o-{vni}"


def tunnel(vni: int, remote: str) -> str:
    """Name the tunnel port of slice *vni* towards the tunnel address *remote*.

    Exactly 15 characters: `t`, the VNI in 6 hex digits, and the IPv4 address in 8 (or, for IPv6,
    8 digits of its digest), so that one host's ports for different slices and peers differ.
    """
    address = ipaddress.ip_address(remote)
    if address.version == 4:
        peer = f"{int(address):08x}"
    else:
        peer = hashlib.sha256(address.packed).hexdigest()[:8]
    return f"t{vni:06x}{peer}"


def tap(vm: str) -> str:
    """Name a VM's tap: `ccf-` and the first 11 hex digits of the VM's id."""
    return f"{PREFIX}{vm.replace('-', '')[:11]}"


def patch(vm: str) -> str:
    """Name a VM's port on its slice's bridge, which leads to the guard: `p-` and those digits."""
    return f"p-{tap(vm).removeprefix(PREFIX)}"


def guard_patch(vm: str) -> str:
    """Name its other end, on the guard: `g-` and those digits."""
    return f"g-{tap(vm).removeprefix(PREFIX)}"


def domain(vm: str) -> str:
    """Name a VM's libvirt domain: `ccf-<VM id>`."""
    return f"{PREFIX}{vm}"


def disk_volume(vm: str) -> str:
    """Name a VM's disk: `ccf-<VM id>.qcow2`."""
    return f"{PREFIX}{vm}.qcow2"


def seed_volume(vm: str) -> str:
    """Name a VM's cloud-init seed: `ccf-<VM id>-seed.iso`."""
    return f"{PREFIX}{vm}-seed.iso"


def serial_log(vm: str) -> str:
    """Name what a VM wrote to its serial console: `ccf-<VM id>.log`."""
    return f"{PREFIX}{vm}.log"


def image_volume(checksum: str) -> str:
    """Name a base image on a host: `ccf-image-<checksum>`."""
    return f"{PREFIX}image-{checksum}"


def mac(address: str, vni: int) -> str:
    """Derive the MAC address of the interface that holds the IPv4 *address* in slice *vni*.

    Locally administered unicast (`02:…`): the address's 32 bits behind one byte of the VNI. A
    stale lease for the address therefore always fits the next VM that gets it.
    """
    packed = ipaddress.IPv4Address(address).packed
    return ":".join(f"{byte:02x}" for byte in (0x02, vni & 0xFF, *packed))


def is_reserved(host: str) -> bool:
    """Tell whether *host* cannot name a compute host because ccfd uses the word itself."""
    return host == NODE
