"""Where does os-ken come from? A virtual environment of its own, in the cache.

It wants packages that ccfd has no use for, eventlet among them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from tests.lab.cache import built, digest
from tests.lab.layout import CHECKOUT
from tests.lab.shell import LabError, run

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
APPLICATION = Path(__file__).parent / "learning_switch.py"
PACKAGES = ["os-ken"]


def learning_switch(address: str, port: int, forgets_after: int) -> list[str]:
    """Return the words that run the application.

    It listens at *address* and *port*; its flows end *forgets_after* seconds without a packet.
    """
    folder = built(f"osken-{digest(CONSTRAINTS.read_bytes(), sys.version)}", _install)
    python = [str(folder / "bin/python"), "-B", "-W", "ignore"]
    return [*python, str(APPLICATION), address, str(port), str(forgets_after)]


def _install(folder: Path) -> None:
    venv, wanted = ["/usr/bin/python3", "-m", "venv"], ["-c", str(CONSTRAINTS), *PACKAGES]
    # As in tools/setup: uv is faster, and pip is the one that must work.
    uv = [str(CHECKOUT / ".venv/bin/uv"), "pip", "install", "-q", "--compile-bytecode"]
    with suppress(LabError, OSError):
        run([*venv, "--without-pip", str(folder)])
        run([*uv, "--python", str(folder / "bin/python"), *wanted], timeout=120)
        return
    run([*venv, "--clear", str(folder)])
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--compile"]
    run([*pip, *wanted], timeout=300)


if __name__ == "__main__":
    # It may take longer than a test.
    learning_switch("", 0, 0)
