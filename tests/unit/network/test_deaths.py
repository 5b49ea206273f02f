"""Hearing that a server has ended."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from ccfd.network.deaths import Deaths
from ccfd.network.processes import Server


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield started
    for one in started:
        one.kill()
        one.wait()


def held(process: subprocess.Popen[bytes]) -> Server:
    return Server(process.pid, os.pidfd_open(process.pid))


async def test_an_end_is_told_once_and_one_that_was_asked_for_is_not(
    sleepers: list[subprocess.Popen[bytes]],
) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    deaths = Deaths(told.put_nowait)
    first, second = sleepers
    for _ in range(2):
        with held(first) as server:
            deaths.watch(1, server)
        with held(second) as server:
            deaths.watch(2, server)
    deaths.forget(2)
    second.send_signal(signal.SIGKILL)
    second.wait()
    first.send_signal(signal.SIGKILL)  # a zombie from here on: nobody has reaped it
    async with asyncio.timeout(60):
        assert await told.get() == 1
    await asyncio.sleep(0)
    assert told.empty()
    deaths.close()


async def test_another_server_of_the_slice_is_watched_in_place_of_the_first(
    sleepers: list[subprocess.Popen[bytes]],
) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    deaths = Deaths(told.put_nowait)
    first, second = sleepers
    for process in (first, second):
        with held(process) as server:
            deaths.watch(1, server)
    first.kill()
    first.wait()
    second.kill()
    async with asyncio.timeout(60):
        assert await told.get() == 1
    await asyncio.sleep(0)
    assert told.empty()
    deaths.close()
