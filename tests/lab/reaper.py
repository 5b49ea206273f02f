"""Run a daemon and reap what it leaves, at once: `reaper.py LOG COMMAND…`.

PID 1 of a container may reap orphans seconds late. libvirt's destroy waits for the dead QEMU's
zombie to go (1.6 s under such a PID 1, 0.24 s under this), and a killed PostgreSQL does not start
again while its zombie seems to run. Run as a file with `python -I -S`, for a
quick start; it therefore imports nothing of the lab.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> None:
    """Detach, run the command, and wait for it and for every orphan that it leaves behind."""
    log, *command = sys.argv[1:]
    if os.fork():
        os._exit(0)
    os.setsid()
    # Or a caller that reads our output waits for ever.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    # After the fork: it is not inherited.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
