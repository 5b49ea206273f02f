"""Cold kills: a whole ccfd process over twins, killed once for each event type, and started anew.

The warm matrix cuts between the engine's parts; this one has no idea where it cuts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.chaos.life import Folder, prepare, request_id, resolved
from tests.chaos.matrix import Row
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.tripwire import Tripwire
from tests.chaos.verdict import judge

WITHIN = 60.0
ENDED = ("succeeded", "failed", "stuck")


@contextmanager
def process(folder: Folder, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run one ccfd over twins; nothing of it is left."""
    with (folder.path / "log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.daemon", str(folder.path), str(number)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()


class Client:
    """Somebody who asks over HTTP, and asks again when there was no answer."""

    def __init__(self, folder: Folder) -> None:
        self._socket = str(folder.path / "ccfd.sock")
        self.acknowledged = False

    async def _call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(self._socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://ccfd{path}", **options) as answer,
        ):
            return answer.status, await answer.json()

    async def ready(self) -> None:
        """Return when ccfd is."""
        async with asyncio.timeout(WITHIN):
            while True:
                with suppress(aiohttp.ClientError, OSError):
                    if (await self._call("GET", "/readyz"))[0] == 200:
                        return
                await asyncio.sleep(0.02)

    async def ask(self, kind: str, body: dict[str, Any]) -> None:
        """Ask, unless that was acknowledged."""
        if self.acknowledged:
            return
        event = {"type": kind, "id": request_id(0), "data": body}
        with suppress(aiohttp.ClientError, OSError):
            status, said = await self._call("POST", "/v1/events", json=event)
            assert status == 202, said
            self.acknowledged = True

    async def ended(self) -> None:
        """Return when the request has ended."""
        async with asyncio.timeout(WITHIN):
            while True:
                _, document = await self._call("GET", f"/v1/requests/{request_id(0)}")
                if document.get("state") in ENDED:
                    return
                await asyncio.sleep(0.02)


async def cut(folder: Folder, number: int, normal: Any, delay: float | None) -> tuple[Row, float]:
    """Ask, kill after *delay* seconds (None: don't), start anew, wait for the end, and judge.

    Also returns the seconds that the request took.
    """
    scenario = SCENARIOS[number]
    harness = folder.open(Tripwire())
    kind, body = await resolved(scenario.asks[0], harness)
    await harness.database.close()
    client = Client(folder)
    if delay is not None:
        with process(folder, number) as first:
            await client.ready()
            async with asyncio.TaskGroup() as group:
                group.create_task(client.ask(kind, body))
                await asyncio.sleep(delay)
                os.kill(first.pid, signal.SIGKILL)
    with process(folder, number) as second:
        await client.ready()
        began = time.monotonic()
        await client.ask(kind, body)
        await client.ended()
        seconds = time.monotonic() - began
        second.terminate()
        try:
            status = str(await asyncio.to_thread(second.wait, WITHIN))
        except subprocess.TimeoutExpired:
            status = "none"
    verdict = await judge(folder, scenario, normal)
    if status != "0":
        said = (folder.path / "log").read_text().splitlines()[-20:]
        verdict.not_whole(f"ccfd stopped with status {status}: {said}")
    row = Row(
        event=scenario.event,
        story=scenario.story,
        what="cold",
        moment="",
        kills=int(delay is not None),
        verdict=verdict,
    )
    return row, seconds


def chosen() -> dict[str, int]:
    """Choose a scenario for each event type: its first."""
    first: dict[str, int] = {}
    for number, scenario in enumerate(SCENARIOS):
        first.setdefault(scenario.event, number)
    return first


def run(directory: Path, empty: Path, *, seed: int, tell: Callable[[str], None]) -> list[Row]:
    """Kill a cold ccfd once for each event type."""
    random, rows = Random(seed), []
    for event, number in chosen().items():
        begin = _begin(directory / f"cold-{number}", empty, SCENARIOS[number])
        # Once without a kill: how long it takes, and how it ends.
        calm, seconds = asyncio.run(
            cut(begin.copy(directory / f"calm-{number}"), number, None, None)
        )
        row, _ = asyncio.run(cut(begin, number, calm.verdict.ends, random.random() * seconds))
        rows.append(row)
        tell(f"cold {event}: {row.verdict.notes or 'well'}")
    return rows


def _begin(path: Path, empty: Path, scenario: Scenario) -> Folder:
    path.mkdir()
    folder = Folder(path)
    asyncio.run(prepare(folder, empty, scenario))
    return folder
