"""One life of a ccfd over twins: from a start on what the one before left, to the end or a kill.

A folder holds all that outlives a process: the database, the hosts, what the broker has been told.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import select

from ccfd.documents import COLLECTIONS
from ccfd.store.tables import request
from ccfd.workflow import engine
from tests.chaos import keep
from tests.chaos.scenarios import Scenario, Send
from tests.chaos.tripwire import Tripwire, wire_commits, wired
from tests.harness import Harness, lab_settings

WITHIN = 60.0
"""Seconds within which a request ends; it takes a tenth of one."""
CALL = 0.02
"""Seconds that a call to a host takes where it matters: longer than a transaction, as in life."""


@dataclass(frozen=True)
class Folder:
    """What outlives a process."""

    path: Path

    @property
    def database(self) -> Path:
        """The database's file."""
        return self.path / "ccfd.db"

    @property
    def world(self) -> Path:
        """The file of the hosts."""
        return self.path / "world"

    def has(self, mark: str) -> bool:
        """Tell whether *mark* was left."""
        return (self.path / mark).exists()

    def leave(self, mark: str) -> None:
        """Leave *mark*."""
        (self.path / mark).touch()

    def copy(self, to: Path) -> Folder:
        """Copy everything."""
        shutil.copytree(self.path, to)
        return Folder(to)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path)

    def open(self, wire: Tripwire) -> Harness:
        """Open a ccfd on it."""
        world = keep.load(self.world)
        harness = Harness(lab_settings(f"sqlite+aiosqlite:///{self.database}"), world)
        harness.runner._effects = wired(world.effects(), world, self.world, wire)
        wire_commits(harness.database, wire)
        return harness


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a directory for a while, in memory where that can be.

    SIGKILL takes nothing from a file in memory that it would leave on a disk.
    """
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="chaos-", dir=memory if memory.is_dir() else None)


def request_id(number: int) -> str:
    """Name the request that asks for a scenario's *number*-th event."""
    return f"request-{number}"


async def prepare(folder: Folder, empty: Path, scenario: Scenario) -> None:
    """Make what is there before the request."""
    shutil.copy(empty, folder.database)
    harness = folder.open(Tripwire())
    await harness.prepare()
    async with harness.running():
        for ask in scenario.before:
            kind, body = await resolved(ask, harness)
            made = await harness.ask(kind, **body)
            assert made["outcome"] == "succeeded", made
    keep.save(harness.world, folder.world)
    await harness.database.close()


async def live(folder: Folder, scenario: Scenario, wire: Tripwire) -> None:
    """Ask, unless an earlier life has said that it stored the request; go on until all ended."""
    harness = folder.open(wire)
    fault, reached, asked = scenario.fault(), asyncio.Event(), asyncio.Event()

    async def trap(call: str, args: Any) -> None:
        await fault(call, args)
        if scenario.at_once:
            await asyncio.sleep(CALL)
        if call == scenario.within:
            reached.set()
            await asked.wait()

    harness.world.trap = trap
    with _pace(scenario, harness):
        async with harness.running():
            await deliver(harness, folder, scenario, reached)
            asked.set()
            for number in range(len(scenario.asks)):
                await harness.terminal(request_id(number), WITHIN)
    await harness.database.close()


@contextmanager
def _pace(scenario: Scenario, harness: Harness) -> Iterator[None]:
    """Have so many carried out at once as *scenario* says, and others begun ahead of their turn."""
    if not scenario.at_once:
        yield
        return
    harness.engine = harness.fresh_engine(scenario.at_once)
    # Over SQLite none comes to rest as soon after another as where some are begun ahead.
    with patch.object(engine, "WAIT", WITHIN):
        yield


async def deliver(
    harness: Harness, folder: Folder, scenario: Scenario, reached: asyncio.Event
) -> None:
    """Be the broker: send what was not acknowledged; what the kill hit before that comes again.

    A second request is sent when the first has *reached* its place, or has ended; where many are
    carried out at once, they are sent one right after another.
    """
    for number, ask in enumerate(scenario.asks):
        if folder.has(f"acknowledged-{number}"):
            continue
        while number and not (
            scenario.at_once or reached.is_set() or await _is_over(number - 1, harness)
        ):
            await asyncio.sleep(0.002)
        kind, body = await resolved(ask, harness)
        await harness.send(kind, request_id(number), **body)
        folder.leave(f"acknowledged-{number}")


async def _is_over(number: int, harness: Harness) -> bool:
    async with harness.database.read() as transaction:
        terminal = await transaction.scalar(
            select(request.c.terminal).where(request.c.request_id == request_id(number))
        )
    return terminal is not None


async def resolved(ask: Send, harness: Harness) -> Send:
    """Put the id of the VM in the place of its name."""
    kind, body = ask
    if "vm" not in body:
        return ask
    # A controller's name is another each time.
    named = {"kind": "controller"} if kind == "controller.delete" else {"name": body["vm"]}
    async with harness.database.read() as transaction:
        page = await COLLECTIONS["vms"].page(1, None, named, transaction)
    # A copy of a request that was carried out: the message still says the id.
    known: list[dict[str, Any]] = page["items"]
    return kind, {**body, "vm": known[0]["vm"] if known else "gone"}
