"""`ccfctl vm console`: a VM's serial console in a terminal, which is given back as it was."""

import asyncio
import os
import termios
from collections.abc import Iterator

import pytest

from ccfd.cli import terminal
from ccfd.cli.client import Client, Target
from ccfd.cli.ctl import globals_first
from tests.unit.cli.conftest import Ctl
from tests.unit.cli.twin import VM, Twin

TICKET = "a-serial-ticket"


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    """A terminal: the person's end, the program's end."""
    person, program = os.openpty()
    yield person, program
    os.close(person)
    os.close(program)


async def shown(person: int, wanted: bytes) -> bytes:
    """Read what the terminal shows until *wanted* is in it."""
    seen = b""
    async with asyncio.timeout(60):
        while wanted not in seen:
            seen += await asyncio.to_thread(os.read, person, 4096)
    return seen


async def test_keys_go_to_the_vm_and_the_key_to_leave_gives_the_terminal_back(
    served: Twin, socket: str, pty: tuple[int, int]
) -> None:
    person, program = pty
    before = termios.tcgetattr(program)
    async with Client(Target(socket=socket)) as client, asyncio.TaskGroup() as group:
        attached = group.create_task(terminal.attach(client, TICKET, keys=program, screen=program))
        await shown(person, b"login: ")
        # Raw: an interrupt is the VM's, and nothing is echoed but by the VM.
        os.write(person, b"root\x03")
        await shown(person, b"root\x03")
        os.write(person, b"ab" + terminal.LEAVE + b"never sent")
        assert await attached is None
    assert termios.tcgetattr(program) == before


async def test_the_reason_is_told_when_the_vm_ends(
    served: Twin, socket: str, pty: tuple[int, int]
) -> None:
    person, program = pty
    before = termios.tcgetattr(program)
    async with Client(Target(socket=socket)) as client, asyncio.TaskGroup() as group:
        attached = group.create_task(terminal.attach(client, TICKET, keys=program, screen=program))
        await shown(person, b"login: ")
        os.write(person, b"exit\r")
        assert await attached == "the VM is not running"
        why = await terminal.attach(client, "used", keys=program, screen=program)
        assert why == "ticket unknown: ask for a new one"
    assert termios.tcgetattr(program) == before


async def test_a_lost_connection_is_told(served: Twin, socket: str, pty: tuple[int, int]) -> None:
    person, program = pty
    async with Client(Target(socket=socket)) as client, asyncio.TaskGroup() as group:
        attached = group.create_task(terminal.attach(client, TICKET, keys=program, screen=program))
        await shown(person, b"login: ")
        served.lose_consoles()
        assert await attached == "the connection to ccfd was lost"


async def test_the_address_is_for_browsers(served: Twin, ctl_: Ctl) -> None:
    screen = await ctl_("vm", "console", "demo/web", "--url")
    assert screen.err == ""
    assert screen.out == f"http://ccfd.example/console/{VM['vm']}?ticket=a-vnc-ticket\n"
    await ctl_("vm", "console", "--url", "demo/web", "--serial", "--view-only")
    assert served.posted == [
        {"type": "vnc", "view_only": False},
        {"type": "serial", "view_only": True},
    ]


def test_a_url_with_a_value_is_ccfds() -> None:
    there = ["--url", "http://127.0.0.1:8780"]
    assert globals_first(["vm", "console", "a", *there]) == [*there, "vm", "console", "a"]
    assert globals_first([*there, "vm", "console", "a", "--url"]) == [
        *there,
        *("vm", "console", "a", "--url"),
    ]


async def test_without_a_terminal_it_asks_for_nothing(served: Twin, ctl_: Ctl) -> None:
    done = await ctl_("vm", "console", "demo/web")
    assert done.status == 2
    assert "--url" in done.err
    assert served.posted == []
