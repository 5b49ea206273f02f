"""How does the lab run the system's tools?"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence


class LabError(Exception):
    """The lab cannot do what it was asked; the message is for the person who asked."""


def run(argv: Sequence[str], *, script: str | None = None, timeout: float = 120) -> str:
    """Run one command to its end and return what it printed; *script* is its standard input.

    Daemons started from here must have their own standard streams: one that keeps ours would keep
    this call waiting for the end of its output.
    """
    try:
        done = subprocess.run(
            argv, input=script or "", capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise LabError(f"{' '.join(argv)}: no end after {timeout} s") from exc
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {told}")
    return done.stdout


def wait_until(ready: Callable[[], object], what: str, timeout: float = 120) -> None:
    """Ask *ready* until it is true; an error that it raises counts as "not yet"."""
    deadline = time.monotonic() + timeout
    while True:
        told = ""
        try:
            if ready():
                return
        except Exception as exc:  # whatever a service that is still starting makes a client say
            told = f": {type(exc).__name__}: {exc}"
        if time.monotonic() > deadline:
            raise LabError(f"{what} is not ready after {timeout:g} s{told}")
        time.sleep(0.05)
