"""How does a daemon of the lab run: detached, in its place, and with a parent that reaps?"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import namespaces
from tests.lab.layout import Layout
from tests.lab.shell import run

_REAPER = Path(__file__).with_name("reaper.py")


def detach(
    layout: Layout,
    place: str,
    argv: Sequence[str],
    *,
    log: str,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Start a daemon in the place under a reaper of its own; what it says goes to *log*."""
    reaper = [sys.executable, "-I", "-S", str(_REAPER), log]
    set_variables = ["env", *(f"{key}={value}" for key, value in (variables or {}).items())]
    run(namespaces.inside(layout, place, [*set_variables, *reaper, *argv], cwd="/"))
