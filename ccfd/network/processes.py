"""Finds a server that an earlier ccfd started, and ends it, without ever meeting a stranger.

A pid may be another program's by the time it is used. So a process is held by a pidfd
(pidfd_open(2)), then looked at, then signalled through the same pidfd.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


class Server:
    """A process that is held; close it (it is a context manager)."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hold it no more."""
        os.close(self._pidfd)

    def fileno(self) -> int:
        """Return the pidfd: it becomes readable when the process ends, reaped or not."""
        return self._pidfd

    def held_again(self) -> "Server":
        """Hold the same process once more, to be closed on its own."""
        return Server(self.pid, os.dup(self._pidfd))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def ended(self, within: float) -> bool:
        """Wait until the process has ended, at most *within* seconds; tell whether it has."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._pidfd, gone.set)
        try:
            async with asyncio.timeout(within):
                await gone.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pidfd)
        return True


def hold(pid: int, argument: str, namespace: Path) -> Server | None:
    """Return the process *pid* if it lives, was started with *argument* and is in *namespace*.

    Where the namespace's file is gone, the argument decides alone.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if _is_it(pid, argument, namespace):
        return Server(pid, pidfd)
    os.close(pidfd)
    return None


def search(argument: str, namespace: Path) -> Server | None:
    """Look for such a process among all; needs the namespace's file, other machines' may match."""
    if not namespace.exists():
        return None
    for pid in _pids(os.listdir(PROC)):
        server = hold(pid, argument, namespace)
        if server is not None:
            return server
    return None


def _pids(entries: Iterable[str]) -> list[int]:
    return [int(entry) for entry in entries if entry.isdecimal()]


def _is_it(pid: int, argument: str, namespace: Path) -> bool:
    place = PROC / str(pid)
    try:
        words = (place / "cmdline").read_bytes().split(b"\0")  # empty for a zombie
        if argument.encode() not in words:
            return False
        if (place / "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X"):
            return False
        theirs = (place / "ns" / "net").stat()
    except OSError:
        return False
    try:
        ours = namespace.stat()
    except FileNotFoundError:
        return True
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
