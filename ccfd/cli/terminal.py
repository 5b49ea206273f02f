"""A VM's serial console in the terminal that ccfctl was started in."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccfd.cli.client import Client, Line

LEAVE = b"\x1d"
"""Ctrl-], as with telnet and virsh."""
CHUNK = 65536


def is_there() -> bool:
    """Tell whether there is a terminal to be used."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def raw(keys: int) -> Iterator[None]:
    """Have the terminal pass on every key at once; give it back as it was, whatever happens."""
    before = termios.tcgetattr(keys)
    tty.setraw(keys)
    try:
        yield
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


async def attach(client: "Client", ticket: str, *, keys: int = 0, screen: int = 1) -> str | None:
    """Join the terminal and the console that *ticket* opens until one of them ends.

    Returns why the console was closed, or None where the person left. *keys* and *screen* are
    file descriptors of a terminal. Raises `Unreachable` and `Answered`.
    """
    async with client.console(ticket) as line:
        with raw(keys):
            left = await _join(line, keys, screen)
        return None if left else line.why()


async def _join(line: "Line", keys: int, screen: int) -> bool:
    """Relay; return whether the person left."""
    async with asyncio.TaskGroup() as group:
        typing = group.create_task(_type(line, keys))
        showing = group.create_task(_show(line, screen))
        done, _ = await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
        typing.cancel()
        showing.cancel()
    return showing not in done


async def _type(line: "Line", keys: int) -> None:
    """Send what is typed, up to the key to leave."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(keys, lambda: typed.put_nowait(_read(keys)))
    try:
        while True:
            data = await typed.get()
            before, leaves, _ = data.partition(LEAVE)
            if before:
                await line.send(before)
            if leaves or not data:
                return
    finally:
        loop.remove_reader(keys)


def _read(keys: int) -> bytes:
    """Return what was typed; nothing where the terminal is gone."""
    try:
        return os.read(keys, CHUNK)
    except OSError:
        return b""


async def _show(line: "Line", screen: int) -> None:
    """Write what the VM writes."""
    while (data := await line.hear()) is not None:
        while data:
            data = data[os.write(screen, data) :]
