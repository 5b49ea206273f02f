"""What a VM's libvirt domain looks like.

Elements in the order of https://libvirt.org/formatdomain.html.
"""

import posixpath
import xml.etree.ElementTree as ET
from typing import Literal

from ccfd.model import names
from ccfd.model.vm import Machine
from ccfd.vt import markup, metadata
from ccfd.vt.markup import add

DomainType = Literal["kvm", "qemu"]

TB_CACHE = 32
"""MiB for translated code under TCG; QEMU's own default takes a gigabyte of address space."""


def definition(
    machine: Machine,
    pool: str,
    domain_type: DomainType,
    *,
    remote_screen: bool = False,
    serial_log: bool = True,
) -> str:
    """Write *machine*'s domain XML; its disk and seed are files of the directory *pool*.

    With *serial_log* so is what it writes to its serial console, since its last start.

    With *remote_screen* its VNC server listens where the host's qemu.conf says (`vnc_listen`, and
    there `vnc_tls`), else on a socket in the domain's own directory.
    """
    domain = markup.element("domain", type=domain_type)
    add(domain, "name", names.domain(machine.vm))
    add(domain, "uuid", machine.vm)
    add(domain, "title", f"{machine.slice}/{machine.name}")
    add(domain, "metadata").append(metadata.element(machine))
    add(domain, "memory", str(machine.ram), unit="MiB")
    add(domain, "vcpu", str(machine.cpu))
    system = add(domain, "os")
    add(system, "type", "hvm", arch="x86_64", machine="pc")
    add(system, "boot", dev="hd")
    features = add(domain, "features")
    add(features, "acpi")
    if domain_type == "qemu":
        add(add(features, "tcg"), "tb-cache", str(TB_CACHE), unit="MiB")
    else:
        add(domain, "cpu", mode="host-model")
    add(domain, "clock", offset="utc")
    add(domain, "on_poweroff", "destroy")
    add(domain, "on_reboot", "restart")
    add(domain, "on_crash", "destroy")
    devices = add(domain, "devices")
    _storage(devices, machine, pool)
    _interface(devices, machine)
    log = posixpath.join(pool, names.serial_log(machine.vm)) if serial_log else None
    _consoles(devices, log, remote_screen=remote_screen)
    return markup.render(domain)


def _storage(devices: ET.Element, machine: Machine, pool: str) -> None:
    disk = add(devices, "disk", type="file", device="disk")
    # writeback is safe as long as the guest flushes, and works on every file system.
    add(disk, "driver", name="qemu", type="qcow2", cache="writeback", discard="unmap")
    add(disk, "source", file=posixpath.join(pool, names.disk_volume(machine.vm)))
    add(disk, "target", dev="vda", bus="virtio")
    seed = add(devices, "disk", type="file", device="cdrom")
    add(seed, "driver", name="qemu", type="raw")
    add(seed, "source", file=posixpath.join(pool, names.seed_volume(machine.vm)))
    add(seed, "target", dev="hda", bus="ide")
    add(seed, "readonly")


def _interface(devices: ET.Element, machine: Machine) -> None:
    """Give the VM its tap: libvirt makes the link, the slice's bridge holds a port of its name."""
    interface = add(devices, "interface", type="ethernet")
    add(interface, "mac", address=machine.mac)
    add(interface, "target", dev=machine.tap)
    add(interface, "model", type="virtio")
    # Open vSwitch's userspace datapath does not fill in checksums that the guest left to its
    # card: ping works, TCP and UDP do not. Without checksums there is no segmentation either.
    add(add(interface, "driver", name="qemu"), "host", csum="off")
    add(interface, "mtu", size=machine.mtu)


def _consoles(devices: ET.Element, log: str | None, *, remote_screen: bool) -> None:
    serial = add(devices, "serial", type="pty")
    if log is not None:
        add(serial, "log", file=log, append="off")
    add(serial, "target", port=0)
    add(add(devices, "console", type="pty"), "target", type="serial", port=0)
    agent = add(devices, "channel", type="unix")
    add(agent, "source", mode="bind")
    add(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
    if remote_screen:
        # No address: one that is not set up listens on the host's loopback, where nobody comes in.
        add(add(devices, "graphics", type="vnc", autoport="yes"), "listen", type="address")
    else:
        add(add(devices, "graphics", type="vnc"), "listen", type="socket")
    add(add(devices, "video"), "model", type="vga")
    add(devices, "controller", type="usb", model="none")
    add(devices, "memballoon", model="none")
    add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
