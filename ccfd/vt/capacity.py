"""How much a host has to give, and whether it runs KVM guests."""

from dataclasses import dataclass

from ccfd.settings import Host, Hypervisor
from ccfd.vt import markup, pools
from ccfd.vt.domain_xml import DomainType
from ccfd.vt.session import Session

_ALL_CELLS = -1  # VIR_NODE_MEMORY_STATS_ALL_CELLS
_KIB_IN_MIB = 1024
_BYTES_IN_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a host has: `cpu` in processors, `ram` in MiB, `disk` in GiB of the pool."""

    cpu: int
    ram: int
    disk: int


def capacity(session: Session, host: Host, pool: str) -> Capacity:
    """Ask libvirt, except for what the settings say; the pool is made if it is missing.

    RAM is the node's memory statistics' total and not virNodeGetInfo's: that one leaves out
    memory that was plugged in while the host ran.
    """
    cpu, ram, disk = host.cpu, host.ram, host.disk
    if cpu is None:
        cpu = int(session.connection.getInfo()[2])
    if ram is None:
        ram = session.connection.getMemoryStats(_ALL_CELLS)["total"] // _KIB_IN_MIB
    if disk is None:
        disk = pools.ensure(session, pool).info()[1] // _BYTES_IN_GIB
    return Capacity(cpu=cpu, ram=ram, disk=disk)


def domain_type(session: Session, settings: Hypervisor) -> DomainType:
    """Choose kvm or qemu: `auto` takes kvm where the host's capabilities offer it."""
    if settings.domain_type != "auto":
        return settings.domain_type
    return "kvm" if offers_kvm(session.connection.getCapabilities()) else "qemu"


def offers_kvm(capabilities: str) -> bool:
    """Tell whether https://libvirt.org/formatcaps.html has a kvm domain type for x86_64."""
    return any(
        arch.find("domain[@type='kvm']") is not None
        for arch in markup.parse(capabilities).findall("guest/arch[@name='x86_64']")
    )
