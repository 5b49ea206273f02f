"""What the service manager hears."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from ccfd.notify import notify, watchdog


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    path = tmp_path / "notify"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(60)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    return sock


def test_the_manager_hears_what_is_said(manager: socket.socket) -> None:
    with manager:
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


async def test_the_watchdog_is_fed_only_while_alive(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    answers = [True, False, True]
    asked_after_the_last = asyncio.Event()

    def is_alive() -> bool:
        if answers:
            return answers.pop(0)
        asked_after_the_last.set()
        return False

    with manager:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(watchdog(is_alive))
            async with asyncio.timeout(60):
                await asked_after_the_last.wait()
            feeding.cancel()
        manager.setblocking(False)
        heard = [manager.recv(100), manager.recv(100)]
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    assert heard == [b"WATCHDOG=1"] * 2
