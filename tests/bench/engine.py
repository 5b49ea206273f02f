"""How many workflows a second? `python -m tests.bench.engine [ROUNDS] [--no-dbos]`.

The same eight trivial steps with undos, on one PostgreSQL with fsync on, for 1, 16 and 64
workflows at once (of ccfd's, so many act; others begin or end meanwhile):

- floor: a bare asyncpg loop that commits each step on its own;
- ccfd: its engine, from stored requests to their stored results, twice: the steps in three
  stages, as `slice.create` has them, and one after another, each a stage of its own;
- DBOS Transact, where it is installed (`.venv/bin/pip install -e '.[bench]'`).

ccfd finds its workflows waiting in the database; progress messages are off. The clock starts when
each has carried some out: connections are open, statements prepared. All take turns, in short
rounds; the median of the rounds counts, and of their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import importlib.util
import json
import logging
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, ClassVar

import asyncpg
import structlog
from pydantic import BaseModel
from sqlalchemy import func, insert, select

from ccfd import settings
from ccfd.daemon import spare_the_collector
from ccfd.store import tables
from ccfd.store.database import Database, Transaction
from ccfd.workflow.backlog import Backlog
from ccfd.workflow.engine import Engine
from ccfd.workflow.handler import Handler, Handlers
from ccfd.workflow.intake import REQUESTS, Intake
from ccfd.workflow.lease import Lease
from ccfd.workflow.records import Records
from ccfd.workflow.runner import Runner
from ccfd.workflow.steps import Effect, Effects, Steps, each, in_order
from tests.bench.servers import database
from tests.harness import Watched

STEPS = 8
IN_STAGES = (3, 3, 2)
"""Steps a stage: `slice.create` of two VMs on two hosts has five, four and two."""
IN_A_ROW = (1,) * STEPS
AT_ONCE = (1, 16, 64)
SECONDS = 1.5
"""About how long each turn shall take."""
WARM_UP = 8
"""Workflows, for each of those at once, before the clock starts: a daemon starts once."""


class Body(BaseModel):
    """What a trivial workflow asks for."""

    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What it decided."""

    name: str


@dataclass(frozen=True, slots=True)
class Trivial:
    """What a trivial step is told."""

    name: str
    number: int


class Work(Handler[Body, Plan]):
    """Eight steps, in stages of so many as *shape* says."""

    event: ClassVar[str] = "bench.work"
    body = Body
    plan = Plan

    def __init__(self, shape: Sequence[int] = IN_A_ROW) -> None:
        self._shape = shape

    async def key(self, body: Body, transaction: Transaction) -> str:
        """Return a key of its own."""
        return f"bench:{body.name}"

    async def decide(self, body: Body, transaction: Transaction) -> Plan:
        """Choose nothing."""
        return Plan(body.name)

    def steps(self, plan: Plan) -> Steps:
        """List the stages."""
        numbers = iter(range(STEPS))
        return in_order(
            *(
                each("work", [Trivial(plan.name, n) for n in islice(numbers, width)])
                for width in self._shape
            )
        )

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Return the name."""
        return {"name": plan.name}


class Counted:
    """The trivial effect."""

    def __init__(self) -> None:
        self.done = 0

    async def do(self, _args: Trivial) -> None:
        """Count."""
        self.done += 1

    async def undo(self, _args: Trivial) -> None:
        """Count back."""
        self.done -= 1

    def effects(self) -> Effects:
        """Give it its name."""
        return {"work": Effect(Trivial, self.do, self.undo)}


class Ends:
    """Counts the ends that are stored, and tells when there are enough."""

    def __init__(self) -> None:
        self._missing = 0
        self._all = asyncio.Event()

    def count(self, *_end: object) -> None:
        """Count one."""
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def wait(self, count: int) -> None:
        """Wait until *count* more have ended."""
        self._missing += count
        self._all.clear()
        if self._missing:
            await self._all.wait()


class Silent(Watched):
    """Who wants no progress."""

    def step(self, *_: object) -> None:
        """Forget."""


async def floor(url: str, at_once: int, count: int) -> float:
    """Return workflows a second of the bare loop."""
    dsn = url.replace("+asyncpg", "")
    first = await asyncpg.connect(dsn)
    await first.execute("DROP TABLE IF EXISTS bare")
    await first.execute("CREATE TABLE bare (id int PRIMARY KEY, step int NOT NULL)")
    await first.executemany("INSERT INTO bare VALUES ($1, 0)", [(n,) for n in range(count)])
    await first.close()
    pool = [await asyncpg.connect(dsn) for _ in range(at_once)]
    waiting = iter(range(count))

    async def loop(connection: Any) -> None:
        for number in waiting:
            for step in range(1, STEPS + 1):
                await asyncio.sleep(0)
                await connection.execute("UPDATE bare SET step = $1 WHERE id = $2", step, number)

    for connection in pool:
        await connection.execute("UPDATE bare SET step = $1 WHERE id = $2", 0, 0)
    began = time.perf_counter()
    await asyncio.gather(*(loop(connection) for connection in pool))
    seconds = time.perf_counter() - began
    for connection in pool:
        await connection.close()
    return count / seconds


async def ours(url: str, at_once: int, count: int, shape: Sequence[int]) -> tuple[float, float]:
    """Return workflows a second of ccfd's engine, and its milliseconds of CPU for each."""
    opened = Database(settings.Database(url=url))
    handlers: Handlers = {Work.event: Work(shape)}
    counted, ends, lease = Counted(), Ends(), Lease(opened)
    effects, intake = counted.effects(), Intake(handlers, lambda *_: None)
    records = Records(opened, handlers, intake, ends.count, concurrency=at_once)
    runner = Runner(
        effects,
        records,
        Silent(),
        held=lambda: lease.held,
        step_timeout=60.0,
        retries=3,
        clock=time.time,
        random=random.Random(1),
    )
    backlog = Backlog(opened, handlers, effects)
    engine = Engine(opened, backlog, records, runner, lease, concurrency=at_once)

    async def carry_out(count: int) -> tuple[float, float]:
        """Return the seconds until all of *count* have ended, and those of the processor."""
        await opened.run(lambda transaction: fill(transaction, count))
        began, cpu = time.perf_counter(), time.process_time()
        opened.signals.wake(REQUESTS)
        await ends.wait(count)
        return time.perf_counter() - began, time.process_time() - cpu

    async with asyncio.TaskGroup() as group:
        leasing = group.create_task(lease.run())
        working = group.create_task(engine.run())
        await carry_out(WARM_UP * at_once)
        seconds, cpu = await carry_out(count)
        engine.stop()
        await working
        leasing.cancel()
    async with opened.read() as transaction:
        ended = await transaction.scalar(
            select(func.count()).where(tables.request.c.state == "succeeded")
        )
    assert ended == count, f"{ended} of {count} workflows succeeded"
    assert counted.done == (WARM_UP * at_once + count) * STEPS
    await opened.close()
    return count / seconds, cpu / count * 1000


async def fill(transaction: Transaction, count: int) -> None:
    """Store *count* requests as the inbox would."""
    for table in (tables.workflow, tables.request, tables.outbox):
        await transaction.execute(table.delete())
    rows = [
        {
            "request_id": f"bench-{number}",
            "type": Work.event,
            "key": f"bench:{number}",
            "state": "queued",
            "unfinished": True,
            "body": {"name": str(number)},
            "correlation_id": f"bench-{number}",
            "workflow_id": f"workflow-{number}",
            "terminal_message_id": f"terminal-{number}",
            "received_at": transaction.now,
        }
        for number in range(count)
    ]
    await transaction.execute(insert(tables.request), rows)


def dbos(url: str, at_once: int, count: int) -> float:
    """Return workflows a second of DBOS, in a process of its own."""
    argv = [sys.executable, "-m", "tests.bench.dbos_engine", url, str(at_once), str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def profile(url: str, at_once: int) -> str:
    """Return where ccfd's time goes, by function."""
    profiler = cProfile.Profile()
    profiler.enable()
    asyncio.run(ours(url, at_once, 1000, IN_A_ROW))
    profiler.disable()
    with tempfile.TemporaryFile("w+") as out:
        stats = pstats.Stats(profiler, stream=out)
        stats.sort_stats("tottime").print_stats(25)
        out.seek(0)
        return out.read()


def main() -> None:
    """Measure all, and print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    spare_the_collector()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine")
    parser.add_argument("rounds", nargs="?", type=int, default=5, help="the median counts")
    parser.add_argument("--no-dbos", action="store_true", help="leave DBOS out")
    asked = parser.parse_args()
    has_dbos = not asked.no_dbos and importlib.util.find_spec("dbos") is not None
    with database() as url:
        _measure(url, asked.rounds, has_dbos=has_dbos)


def _measure(url: str, rounds: int, *, has_dbos: bool) -> None:
    print(f"{STEPS} steps, fsync on; workflows/s, median of {rounds}; CPU in ms a workflow")
    print("at once   floor |  ccfd in 3 stages    |  ccfd in 8 stages    |   DBOS  x DBOS")
    print("                |  /s   x floor   CPU  |  /s   x floor   CPU  |   /s   in 3  in 8")
    for at_once in AT_ONCE:
        count = _count(300, at_once, SECONDS)
        bare, other = list[float](), list[float]()
        mine: list[list[tuple[float, float]]] = [[], []]
        for _ in range(rounds):
            bare.append(asyncio.run(floor(url, at_once, count)))
            for measured, shape in zip(mine, (IN_STAGES, IN_A_ROW), strict=True):
                measured.append(asyncio.run(ours(url, at_once, count, shape)))
            if has_dbos:
                other.append(dbos(url, at_once, int(25 * SECONDS)))
        line = f"{at_once:7d} {median(bare):7.0f} |"
        for measured in mine:
            rates, cpu = zip(*measured, strict=True)
            line += f"{median(rates):6.0f} {_times(rates, bare):7.2f} {median(cpu):6.2f} |"
        if has_dbos:
            line += f" {median(other):6.0f}"
            line += "".join(f"{_times([r for r, _ in one], other):6.1f}" for one in mine)
        print(line if has_dbos else line + " not installed")
    print(profile(url, AT_ONCE[1]))


def _times(rates: Sequence[float], floors: Sequence[float]) -> float:
    """Return the median of how many times as fast it was as the floor beside it."""
    return median(rate / bare for rate, bare in zip(rates, floors, strict=True))


def _count(a_second: int, at_once: int, seconds: float) -> int:
    """Return a number of workflows that takes about *seconds*."""
    return int(seconds * a_second * (1 if at_once == 1 else 4))


if __name__ == "__main__":
    main()
