"""What systemd is told: that ccfd is ready, alive, stopping (sd_notify(3), Type=notify)."""

import asyncio
import os
import socket
from collections.abc import Callable


def notify(message: str) -> None:
    """Send *message* to the service manager; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.sendall(message.encode())


async def watchdog(is_alive: Callable[[], bool]) -> None:
    """Tell the service manager, twice as often as it asks for, while *is_alive*."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    if not microseconds or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        if is_alive():
            notify("WATCHDOG=1")
        await asyncio.sleep(int(microseconds) / 2_000_000)
