"""What stands for the internet: a web server at 203.0.113.254?"""

from __future__ import annotations

import sys

from tests.lab import daemons, namespaces
from tests.lab.layout import OUTSIDE, OUTSIDE_ADDRESS, Layout
from tests.lab.shell import LabError, run, wait_until

_BIG_FILE = 14 * 1024 * 1024


def start(layout: Layout) -> None:
    """Serve `/` ("outside") and `/big` (14 MiB); the log names each client's address."""
    pages = layout.home(OUTSIDE) / "www"
    pages.mkdir()
    (pages / "index.html").write_text("outside\n")
    with (pages / "big").open("wb") as big:
        big.truncate(_BIG_FILE)
    start_daemon(layout)
    wait_until(lambda: answers(layout), "the outside web server")


def start_daemon(layout: Layout) -> None:
    """Start the web server."""
    home = layout.home(OUTSIDE)
    server = [sys.executable, "-I", "-S", "-u", "-m", "http.server", "--bind", OUTSIDE_ADDRESS]
    words = [*server, "--directory", str(home / "www"), "80"]
    daemons.detach(layout, OUTSIDE, words, log=str(home / "log"))


def answers(layout: Layout) -> bool:
    """Tell whether the web server accepts connections."""
    attempt = ["bash", "-c", f"exec 3<>/dev/tcp/{OUTSIDE_ADDRESS}/80"]
    try:
        run([*namespaces.in_network(layout, OUTSIDE), *attempt], timeout=30)
    except LabError:
        return False
    return True
