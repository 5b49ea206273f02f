"""Which processes belong to a lab, and how are they ended?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.layout import Layout

# All are looked at: `ip netns exec` makes a mount namespace of its own, and ccfd's DHCP servers
# and gateways have network namespaces of their own. They keep the host's UTS namespace.
_KINDS = ("uts", "net", "mnt")
_MARK = "CCFD_LAB"


def namespace_ids(layout: Layout, *places: str) -> frozenset[tuple[int, int]]:
    """Return device and inode of the live namespaces of the places, by default of the whole lab."""
    # A namespace file that nothing is mounted on (after a reboot, say) is a plain file.
    nsfs = Path("/proc/self/ns/net").stat().st_dev
    found = set()
    for place in places or layout.places:
        for kind in _KINDS:
            with suppress(FileNotFoundError):
                status = layout.namespace(place, kind).stat()
                if status.st_dev == nsfs:
                    found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def running(layout: Layout, place: str, program: str) -> list[int]:
    """List the pids of a program in one place: all places share the machine's process table."""
    namespaces = namespace_ids(layout, place)
    return [pid for pid in _live() if name_of(pid) == program and _is_inside(pid, namespaces)]


def _live() -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and is_alive(int(entry)):
            yield int(entry)


def _is_inside(pid: int, namespaces: frozenset[tuple[int, int]]) -> bool:
    for kind in _KINDS:
        try:
            status = os.stat(f"/proc/{pid}/ns/{kind}")
        except OSError:  # gone meanwhile, or a kernel thread
            return False
        if (status.st_dev, status.st_ino) in namespaces:
            return True
    return False


def is_alive(pid: int) -> bool:
    """Tell whether the process runs; a zombie does not.

    PID 1 of a container may reap orphans seconds late, and `kill -0` succeeds on a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def name_of(pid: int) -> str:
    """Return the name of the process's program, "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def marked(layout_dir: Path) -> Iterator[None]:
    """Mark what this process starts as the lab's own, also before it enters a namespace.

    A killed `up` leaves helpers behind that are about to mount something or to add a link; `down`
    must find them too.
    """
    before = os.environ.get(_MARK)
    os.environ[_MARK] = str(layout_dir)
    try:
        yield
    finally:
        del os.environ[_MARK]
        if before is not None:
            os.environ[_MARK] = before


def _is_marked(pid: int, layout_dir: Path) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(f"{_MARK}={layout_dir}") in variables


def belonging(layout: Layout) -> list[int]:
    """List the live processes of the lab."""
    namespaces = namespace_ids(layout)
    return [
        pid
        for pid in _live()
        if _is_inside(pid, namespaces) or (pid != os.getpid() and _is_marked(pid, layout.dir))
    ]


def end_all(layout: Layout, timeout: float = 60) -> None:
    """Kill every process of the lab, again and again until none is left.

    SIGKILL at once: nothing in a lab is worth a tidy end, and shared memory, sockets and links
    go with the lab's own IPC namespaces, mounts and network namespaces.
    """
    deadline = time.monotonic() + timeout
    killed: set[int] = set()
    while left := belonging(layout):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            names = ", ".join(f"{pid} {name_of(pid)}" for pid in left)
            raise TimeoutError(f"these processes do not end: {names}")
        killed.update(left)
        time.sleep(0.02)
    _wait_until_reaped(killed)


def _wait_until_reaped(pids: set[int], timeout: float = 30) -> None:
    # Orphaned zombies wait for PID 1, which may take its time. Whoever looks right after must not
    # take them for processes; that they are not reaped is not the lab's fault, so no error.
    deadline = time.monotonic() + timeout
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
