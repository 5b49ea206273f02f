"""What do the lab's guests boot? A small disk of Debian's cloud kernel and busybox.

It prints to the serial console, takes its name, SSH keys and, if it says so, address and MTU from
a NoCloud seed, else the latter two by DHCP, answers TCP on 7 (echo), 22 (SSH) and 80 (its host
name), and runs the QEMU guest agent, by which the host runs commands in it with no network at all.
Its scripts are in `guest/`.

It wants machine "pc", its disk as /dev/vda, a seed on IDE or virtio, and 96 MiB or more. Under
TCG give it `<tcg><tb-cache unit='MiB'>32</tb-cache></tcg>`: with QEMU's default a reboot takes 6 to
10 s in place of 4, for the loader overwrites memory that much translated code came from.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

from tests.lab import cache
from tests.lab.shell import LabError, run

_SCRIPTS = Path(__file__).with_name("guest")
_META_PACKAGE = "linux-image-cloud-amd64"
_MIB = 1024 * 1024
_DISK_SIZE = 64 * _MIB
_PARTITION_START = _MIB

# Programs of Debian's that come along with their libraries.
_PROGRAMS = ("/usr/sbin/dropbear", "/usr/sbin/qemu-ga")
_CONTROLLER = "/usr/bin/ovs-testcontroller"
_LISTENS = "--unixctl=none --max-idle=5 ptcp:6633"
_PACKAGES = ("busybox-static", "dropbear-bin", "qemu-guest-agent", "extlinux", "libc6")
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext2")
_MODULES = (
    *_BOOT_MODULES,
    *("virtio_net", "virtio_console", "virtio_rng", "virtio_balloon"),
    # An IDE or virtio-scsi cdrom; the cloud kernel has no AHCI, so no SATA.
    *("virtio_scsi", "sd_mod", "sr_mod", "ata_piix", "isofs"),
    *("button", "evdev"),
)


def guest_image() -> Path:
    """Return the disk image (qcow2), built once for each set of parts."""
    return _image("tiny", _PACKAGES, _PROGRAMS, "")


def controller_image() -> Path:
    """Return the same with an OpenFlow controller: a learning switch that listens on port 6633."""
    packages, programs = (*_PACKAGES, "openvswitch-testcontroller"), (*_PROGRAMS, _CONTROLLER)
    return _image("controller", packages, programs, f"::respawn:{_CONTROLLER} {_LISTENS}\n")


def _image(called: str, packages: tuple[str, ...], programs: tuple[str, ...], runs: str) -> Path:
    scripts = sorted(_SCRIPTS.iterdir())
    facts = [script.name.encode() + b"\0" + script.read_bytes() for script in scripts]
    package = _kernel_package()
    versions = cache.package_versions(*packages)
    name = cache.digest(*facts, Path(__file__).read_bytes(), package, versions)
    return cache.built(
        f"{called}-{name}.qcow2", lambda draft: _build(draft, _kernel(package), programs, runs)
    )


def _kernel_package() -> str:
    # The newest that is kept will do: asking apt takes half a second and may need its lists.
    kept = sorted(cache.FOLDER.glob("linux-image-*-cloud-amd64"), key=lambda p: p.stat().st_mtime)
    if kept:
        return kept[-1].name
    try:
        return _newest_kernel_package()
    except LabError:  # a machine whose lists were removed to save space
        run(["apt-get", "-q", "update"], timeout=300)
        return _newest_kernel_package()


def _newest_kernel_package() -> str:
    found = re.search(r"Depends: (linux-image-\S+)", run(["apt-cache", "depends", _META_PACKAGE]))
    if found is None:
        raise LabError(f"apt knows no {_META_PACKAGE}")
    return found[1]


def _kernel(package: str) -> Path:
    """Return the kernel package's content; nothing is installed on the machine."""
    return cache.built(package, partial(_unpack_kernel, package))


def _unpack_kernel(package: str, draft: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(["sh", "-c", f"cd {folder} && apt-get -q download {package}"], timeout=300)
        (deb,) = Path(folder).glob("*.deb")
        run(["dpkg", "--extract", str(deb), str(draft)])
    run(["depmod", "-b", str(draft), _kernel_version(draft)])


def _kernel_version(kernel: Path) -> str:
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    return image.name.removeprefix("vmlinuz-")


def _build(draft: Path, kernel: Path, programs: tuple[str, ...], runs: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = work / "root"
        _lay_out(root)
        with (root / "etc/inittab").open("a") as table:
            table.write(runs)
        _add_programs(root, programs)
        _add_modules(root, kernel)
        _add_boot(root, work, kernel)
        disk = work / "disk"
        _write_disk(root, work, disk)
        run(["qemu-img", "convert", "-c", "-O", "qcow2", str(disk), str(draft)])


def _lay_out(root: Path) -> None:
    for name in (
        *("bin", "sbin", "usr/bin", "lib", "lib64", "dev", "proc", "sys", "run", "tmp", "mnt"),
        *("root/.ssh", "var", "boot/extlinux", "www", "etc/dropbear", "etc/acpi/PWRF"),
    ):
        (root / name).mkdir(parents=True)
    (root / "var" / "run").symlink_to("../run")
    for folder in ("root", "root/.ssh"):
        (root / folder).chmod(0o700)
    (root / "etc/passwd").write_text("root:*:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/shells").write_text("/bin/sh\n")
    (root / "etc/profile").write_text("export PATH=/bin:/sbin:/usr/bin\n")
    (root / "etc/hostname").write_text("tiny\n")
    shutil.copy(_SCRIPTS / "inittab", root / "etc")
    shutil.copy(_SCRIPTS / "extlinux.conf", root / "boot/extlinux")
    for name, place in {
        "rc": "etc/rc",
        "dhcp": "etc/dhcp",
        "nocloud": "etc/nocloud",
        "guest-agent": "etc/guest-agent",
        "shutdown": "sbin/shutdown",
        # The name that busybox's acpid looks for: event type, code.
        "power-button": "etc/acpi/PWRF/00000080",
    }.items():
        shutil.copy(_SCRIPTS / name, root / place)
        (root / place).chmod(0o755)


def _add_programs(root: Path, programs: tuple[str, ...]) -> None:
    shutil.copy("/bin/busybox", root / "bin")
    for applet in run(["/bin/busybox", "--list"]).split():
        if applet != "busybox":  # it lists itself: that link would point at itself
            (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    for program in programs:
        shutil.copy(program, root / "usr/bin")
        for library in re.findall(r"/\S+", run(["ldd", program])):
            place = root / library.removeprefix("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)


def _with_dependencies(modules: tuple[str, ...], kernel: Path) -> list[Path]:
    """List the modules' files in the order to load them; what is built in has none."""
    version = _kernel_version(kernel)
    files: dict[Path, None] = {}
    for module in modules:
        asked = ["modprobe", "-d", str(kernel), "-S", version, "--show-depends", module]
        for line in run(asked).splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "insmod":
                files[Path(rest.split()[0])] = None
    return list(files)


def _add_modules(root: Path, kernel: Path) -> None:
    version = _kernel_version(kernel)
    for file in _with_dependencies(_MODULES, kernel):
        place = root / file.relative_to(kernel)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(kernel / "lib/modules" / version / name, root / "lib/modules" / version)
    run(["depmod", "-b", str(root), version])


def _add_boot(root: Path, work: Path, kernel: Path) -> None:
    shutil.copy(kernel / "boot" / f"vmlinuz-{_kernel_version(kernel)}", root / "boot/vmlinuz")
    tree = work / "initramfs"
    for name in ("bin", "modules", "proc", "dev", "new"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    for number, file in enumerate(_with_dependencies(_BOOT_MODULES, kernel)):
        shutil.copy(file, tree / "modules" / f"{number:02d}-{file.name}")
    shutil.copy(_SCRIPTS / "initramfs-init", tree / "init")
    (tree / "init").chmod(0o755)
    packed = "cd {} && find . | cpio --quiet -o -H newc | gzip -9 > {}"
    run(["sh", "-c", packed.format(tree, root / "boot/initrd")])


def _write_disk(root: Path, work: Path, disk: Path) -> None:
    filesystem = work / "filesystem"
    _empty_file(filesystem, _DISK_SIZE - _PARTITION_START)
    # ext2 with small blocks: extlinux cannot read the kernel from ext4 as mke2fs makes it today.
    run(["mke2fs", "-q", "-t", "ext2", "-b", "1024", "-m", "0", "-d", str(root), str(filesystem)])
    mounted = work / "mounted"
    mounted.mkdir()
    # In a mount namespace of its own, so that mount and loop device go whatever ends the build.
    script = f"mount -o loop {filesystem} {mounted} && extlinux --install {mounted}/boot/extlinux"
    run(["unshare", "--mount", "sh", "-c", f"{script} && umount {mounted}"])
    _empty_file(disk, _DISK_SIZE)
    table = f"label: dos\nstart={_PARTITION_START // 512}, type=83, bootable\n"
    run(["sfdisk", "-q", str(disk)], script=table)
    with disk.open("r+b") as target:
        target.write(_boot_sector())
        target.seek(_PARTITION_START)
        with filesystem.open("rb") as source:
            shutil.copyfileobj(source, target, _MIB)


def _boot_sector() -> bytes:
    # 440 bytes: the partition table begins after them (and a disk signature).
    return Path("/usr/lib/EXTLINUX/mbr.bin").read_bytes()[:440]


def _empty_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
