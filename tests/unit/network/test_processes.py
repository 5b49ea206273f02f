"""Telling our server from a stranger."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ccfd.network import processes

HERE = Path("/proc/self/ns/net")


@pytest.fixture
def server() -> subprocess.Popen[bytes]:
    # A word of its command line that only this test has.
    code = "print(flush=True); input()"
    server = subprocess.Popen([sys.executable, "-c", code, "--conf-file=/x/1"], stdin=-1, stdout=-1)
    assert server.stdout is not None
    server.stdout.readline()  # its command line is there once it runs
    return server


async def test_a_server_is_held_by_its_argument_and_namespace_and_seen_to_end(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "netns"
    elsewhere.touch()
    try:
        assert processes.hold(server.pid, "--conf-file=/x/2", HERE) is None
        assert processes.hold(server.pid, "--conf-file=/x/1", elsewhere) is None
        held = processes.hold(server.pid, "--conf-file=/x/1", HERE)
        assert held is not None
        with held:
            assert not await held.ended(0.01)
            server.kill()
            assert await held.ended(60)  # though nobody has reaped it yet
            held.signal(signal.SIGTERM)
        assert processes.hold(server.pid, "--conf-file=/x/1", HERE) is None
    finally:
        server.kill()
        server.communicate()


def test_a_pid_that_nobody_has_is_nobody(tmp_path: Path) -> None:
    assert processes.hold(2**22 + 1, "x", HERE) is None
    assert processes.search("x" * 40, tmp_path / "none") is None
