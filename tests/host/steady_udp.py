"""UDP at a steady rate: out of a guest that has no program for it, or out of a namespace.

What arrives of it is measured again and again (`measured`): on a busy machine nobody may send
that much, and a guest that stood still gets at once what has come meanwhile.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

FRAME = 1442
"""Bytes of an Ethernet frame, of which 42 are headers."""
PORT = 9999

ATTEMPTS = 12

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

# SO_TIMESTAMPNS, which Python has no name for: the kernel's time of each frame (socket(7)). A
# receiver that stood still would else take for fast what only waited for it.
RECEIVER = f"""
import socket, struct, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, 35, 1)
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
link.bind((sys.argv[1], {PORT}))
link.settimeout(10)
came = []
try:
    while True:
        about = link.recvmsg(2048, 64)[1]
        seconds, nanoseconds = struct.unpack("qq", about[0][2])
        came.append(seconds + nanoseconds / 1e9)
        link.settimeout(0.5)
except TimeoutError:
    few = len(came) < 2
    print(0 if few else (len(came) - 1) * {FRAME} * 8 / (came[-1] - came[0]) / 1e6)
"""
"""A Python program that prints the Mbit/s that arrive at its argument, an address, until silence.

0 where none does.
"""


async def measured(
    measure: Callable[[], Awaitable[float]], is_right: Callable[[float], bool]
) -> list[float]:
    """Measure until it is right, `ATTEMPTS` times at most; return all that was found."""
    found: list[float] = []
    while len(found) < ATTEMPTS and not (found and is_right(found[-1])):
        found.append(await measure())
    return found
