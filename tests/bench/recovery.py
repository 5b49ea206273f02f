"""How long does ccfd take to end what a kill interrupted? `python -m tests.bench.recovery`.

200 workflows are under way at once, eight steps of 0.25 s each, on one PostgreSQL with fsync on.
The process is killed with SIGKILL after a quarter, half and three quarters of its time, and started
again: from when it is ready until all have ended, beside the time that the steps which were not
done take in a process that is not killed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time

from sqlalchemy import func, select

from ccfd import settings
from ccfd.store import tables
from ccfd.store.database import Database
from ccfd.workflow.backlog import Backlog
from ccfd.workflow.engine import Engine
from ccfd.workflow.handler import Handlers
from ccfd.workflow.intake import Intake
from ccfd.workflow.journal import Journal
from ccfd.workflow.lease import Lease
from ccfd.workflow.records import Records
from ccfd.workflow.runner import Runner
from ccfd.workflow.steps import Effect, Steps
from tests.bench import engine
from tests.bench.engine import Silent, Trivial, Work
from tests.bench.servers import database

FLOWS = 200
STEP = 0.25


async def work(url: str) -> None:
    """Be the daemon: say when it is ready, carry out whatever there is, until killed."""
    opened = Database(settings.Database(url=url))
    handlers: Handlers = {Work.event: Work()}
    lease = Lease(opened)

    async def do(_args: Trivial) -> None:
        await asyncio.sleep(STEP)

    effects = {"work": Effect(Trivial, do, do)}
    intake = Intake(handlers, lambda *_: None)
    records = Records(opened, handlers, intake, lambda *_: None, concurrency=FLOWS)
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
    async with opened.read() as transaction:
        await transaction.scalar(select(1))
    print("ready", flush=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.run())
        backlog = Backlog(opened, handlers, effects)
        ours = Engine(opened, backlog, records, runner, lease, concurrency=FLOWS)
        group.create_task(ours.run())


async def ended(url: str) -> float:
    """Wait until every workflow has ended; return the moment."""
    opened = Database(settings.Database(url=url))
    query = select(func.count()).where(tables.request.c.terminal.is_not(None))
    while True:
        async with opened.read() as transaction:
            if await transaction.scalar(query) == FLOWS:
                break
        await asyncio.sleep(0.02)
    moment = time.perf_counter()
    await opened.close()
    return moment


async def fill(url: str) -> None:
    """Store the workflows."""
    opened = Database(settings.Database(url=url))
    await opened.run(lambda transaction: engine.fill(transaction, FLOWS))
    await opened.close()


def start(url: str) -> tuple[subprocess.Popen[str], float]:
    """Start the daemon; return when it is ready, and the moment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.recovery", url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, time.perf_counter()


def calm(url: str) -> float:
    """Return how long all of it takes without a kill."""
    asyncio.run(fill(url))
    process, began = start(url)
    seconds = asyncio.run(ended(url)) - began
    _kill(process)
    return seconds


def killed(url: str, after: float) -> tuple[float, float]:
    """Return which share of the steps a kill leaves, and how long the rest takes after it."""
    asyncio.run(fill(url))
    process, began = start(url)
    time.sleep(max(0.0, began + after - time.perf_counter()))
    _kill(process)
    left = asyncio.run(share_left(url))
    process, began = start(url)
    seconds = asyncio.run(ended(url)) - began
    _kill(process)
    return left, seconds


async def share_left(url: str) -> float:
    """Return which share of all steps is not done; one that the kill cut off has to be repeated."""
    opened = Database(settings.Database(url=url))
    async with opened.read() as transaction:
        rows = await transaction.all(
            select(tables.request.c.steps, tables.workflow.c.journal)
            .join(tables.workflow)
            .where(tables.request.c.terminal.is_(None))
        )
    await opened.close()
    journals = [Journal.read(row.journal, Steps.from_json(row.steps)) for row in rows]
    left = [len(journal.records) - journal.stage for journal in journals]
    return sum(left) / (FLOWS * engine.STEPS)


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def main() -> None:
    """Measure, and print a line for each kill."""
    with database() as url:
        print(f"{FLOWS} workflows under way, 8 steps of {STEP} s; seconds")
        print("without a kill  killed after  remained  took  ratio")
        whole = calm(url)
        for share in (0.25, 0.5, 0.75):
            after = whole * share
            left, took = killed(url, after)
            remained = whole * left
            print(f"{whole:14.2f} {after:13.2f} {remained:9.2f} {took:5.2f} {took / remained:6.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(work(sys.argv[1]))
    else:
        main()
