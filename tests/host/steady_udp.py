"""UDP at a steady rate: out of a guest that has no program for it, or out of a namespace."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path

FRAME = 1442
"""Bytes of an Ethernet frame, of which 42 are headers."""
PORT = 9999

_SOURCE = Path(__file__).with_suffix(".c")
_COMPILE = (
    *("gcc", "-Os", "-static", "-nostdlib", "-s", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-w", "-Wl,-n", "-Wl,--build-id=none"),
    "-Wl,--no-warn-rwx-segments",
)


def sender(address: str, mbits: int, seconds: int) -> str:
    """Return a line for a guest's shell: it sends *mbits* Mbit/s of frames to *address*.

    It brings its own program along, of a kilobyte.
    """
    defined = {
        "ADDRESS": address.replace(".", ","),
        "MBITS": mbits,
        "SECONDS": seconds,
        "SIZE": FRAME - 42,
    }
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "udp"
        words = [f"-D{name}={value}" for name, value in defined.items()]
        argv = [*_COMPILE, *words, "-o", str(program), str(_SOURCE)]
        subprocess.run(argv, check=True, timeout=30)
        text = base64.b64encode(program.read_bytes()).decode()
    return f"echo {text} | base64 -d > /run/udp && chmod +x /run/udp && /run/udp"


SENDER = f"""
import socket, sys, time
address, mbits, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
began, sent = time.monotonic(), 0
while (passed := time.monotonic() - began) < seconds:
    while sent * {FRAME} * 8 < passed * mbits * 1e6:
        link.sendto(bytes({FRAME} - 42), (address, {PORT}))
        sent += 1
    time.sleep(0.001)
"""
"""A Python program that does the same; its arguments are those of `sender`."""
