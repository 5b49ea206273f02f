"""How is a place (a host, the node, the outside) set apart from the machine, and entered?

A place is a network, UTS, IPC and mount namespace. Each is kept alive by a file in DIR/ns that the
kernel mounts it on, so it needs no process and the machine's own `ip netns` list stays untouched.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.layout import Layout
from tests.lab.shell import LabError, run

_KINDS = {"net": "net", "uts": "uts", "ipc": "ipc", "mnt": "mount"}

OWN_FOLDERS = {
    "run": "/run",
    "etc-openvswitch": "/etc/openvswitch",
    "log-openvswitch": "/var/log/openvswitch",
    "etc-libvirt": "/etc/libvirt",
    "lib-libvirt": "/var/lib/libvirt",
    "cache-libvirt": "/var/cache/libvirt",
    "log-libvirt": "/var/log/libvirt",
    "lib-ccfd": "/var/lib/ccfd",
    "lib-postgresql": "/var/lib/postgresql",
    "lib-rabbitmq": "/var/lib/rabbitmq",
}
"""What a place has of its own, by folder under its home. Short paths also keep UNIX sockets within
sun_path however long DIR is, and let users like `postgres` in where DIR's parents would not."""

_RUN_FOLDERS = ("lock", "netns", "openvswitch", "libvirt", "postgresql")

_OWN_MOUNTS = """
set -e
hostname {place}
# The machine's and other labs' namespaces were copied with the mounts; each copy would keep a
# namespace alive after its owner has gone.
umount -a -l -t nsfs
umount -l {namespaces}
mount -t sysfs sysfs /sys     # /sys/class/net must be this network namespace's
# A /dev without /dev/kvm: where it exists but its owner is not what udev would set, libvirt probes
# QEMU's capabilities again at every start of a domain, 55 s each. Its mode is the machine's affair.
mount -t tmpfs -o mode=755 dev {home}/dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty {home}/dev/
mkdir {home}/dev/pts {home}/dev/shm {home}/dev/net
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts {home}/dev/pts
mount -t tmpfs -o mode=1777 shm {home}/dev/shm
ln -s pts/ptmx {home}/dev/ptmx
ln -s /proc/self/fd {home}/dev/fd
ln -s /proc/self/fd/0 {home}/dev/stdin
ln -s /proc/self/fd/1 {home}/dev/stdout
ln -s /proc/self/fd/2 {home}/dev/stderr
[ ! -e /dev/net/tun ] || cp -a /dev/net/tun {home}/dev/net/
[ ! -e /dev/vhost-net ] || cp -a /dev/vhost-net {home}/dev/
mount --rbind {home}/dev /dev
# libvirt looks its own host name up when a domain starts; a silent DNS server would hold it up.
printf '127.0.0.1 localhost {place}\\n' > {home}/hosts
mount --bind {home}/hosts /etc/hosts
"""


def prepare(layout: Layout) -> None:
    """Make the folder that namespaces are kept in; it must be a private mount for mount files."""
    layout.namespaces.mkdir()
    run(["mount", "--bind", str(layout.namespaces), str(layout.namespaces)])
    run(["mount", "--make-private", str(layout.namespaces)])


def make(layout: Layout, place: str) -> None:
    """Make the namespaces of one place, with its own folders mounted where programs expect them."""
    home = layout.home(place)
    for kind in _KINDS:
        layout.namespace(place, kind).touch()
    _unshare(layout, place)
    script = _OWN_MOUNTS.format(
        place=place, home=shlex.quote(str(home)), namespaces=shlex.quote(str(layout.namespaces))
    )
    (home / "dev").mkdir(parents=True, exist_ok=True)
    for name in _RUN_FOLDERS:
        (home / "run" / name).mkdir(parents=True)
    for name, target in OWN_FOLDERS.items():
        (home / name).mkdir(exist_ok=True)
        # What is mounted on must exist on the machine; packages make all but /var/lib/ccfd.
        Path(target).mkdir(parents=True, exist_ok=True)
        script += f"mount --bind {shlex.quote(str(home / name))} {target}\n"
    run(["nsenter", *_entrance(layout, place), "--", "sh"], script=script)
    run([*in_network(layout, place), "ip", "link", "set", "lo", "up"])


def _unshare(layout: Layout, place: str) -> None:
    """Make a place's namespaces and keep them by their files.

    The kernel lets a mount namespace be kept only by one with a lower number, and gives numbers
    out by the processor, in batches: where this machine is itself in a namespace (a container),
    a new one may have a lower number than ours. On the processor that ours was made on it has not.
    """
    files = {long: layout.namespace(place, kind) for kind, long in _KINDS.items()}
    kept = [f"--{long}={path}" for long, path in files.items()]
    processors = sorted(os.sched_getaffinity(0))
    for processor in processors:
        pinned = ["taskset", "-c", str(processor)]
        try:
            run([*pinned, "unshare", *kept, "--propagation=private", "true"])
        except LabError:
            for path in files.values():
                with suppress(LabError):  # most were not mounted
                    run(["umount", str(path)])
            if processor == processors[-1]:
                raise
        else:
            return


def in_network(layout: Layout, place: str) -> list[str]:
    """Return the words before a command that run it in the place's network namespace only."""
    return ["nsenter", f"--net={layout.namespace(place, 'net')}", "--"]


def inside(layout: Layout, place: str, argv: Sequence[str], cwd: str | None = None) -> list[str]:
    """Return the command that becomes *argv* inside the place.

    nsenter does not fork here, so the pid stays and signals arrive. Entering a mount namespace
    moves to its root: the working directory has to be asked for by path.
    """
    return ["nsenter", *_entrance(layout, place), f"--wdns={cwd or os.getcwd()}", "--", *argv]


def _entrance(layout: Layout, place: str) -> list[str]:
    return [f"--{long}={layout.namespace(place, kind)}" for kind, long in _KINDS.items()]


def ip_batch(layout: Layout, place: str, commands: Iterable[str]) -> None:
    """Run several `ip` commands in the place's network namespace, in one process."""
    run([*in_network(layout, place), "ip", "-batch", "-"], script="\n".join(commands) + "\n")


def release(layout: Layout) -> None:
    """Let go of every namespace of the lab and of all that is mounted under its folder."""
    for point in reversed(_mounts_under(layout.dir)):
        # Lazily: a mount that something still looks at must not keep the lab from going.
        run(["umount", "-l", point])


def _mounts_under(folder: Path) -> list[str]:
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Octal escapes stand for space, tab, newline and backslash (proc(5)).
        point = line.split()[4].encode().decode("unicode_escape").encode("latin-1").decode()
        if Path(point).is_relative_to(folder):
            points.append(point)
    return points
