"""The matrix: every scenario killed at every point, in forks of one warm process.

A fork costs milliseconds where a start of Python costs a second. Each kill is a real SIGKILL of a
real process over a real database file; the next fork starts as a restarted ccfd would.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.life import WITHIN, Folder, live, prepare
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.tripwire import Point, Tripwire
from tests.chaos.verdict import Verdict, judge

# Longer than a life with patience for its requests.
LIFE = 2 * WITHIN
AGAIN, ANY_MOMENT = "again, while recovering", "at a random moment"
IN_A_BURST = "at a point of many at once"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fate: where a scenario is killed, and then perhaps once more.

    `at` a point, or at the `nth` one, whatever it is; or after a `delay` in seconds.
    """

    scenario: int
    what: str
    moment: str
    at: Point | None = None
    nth: int | None = None
    delay: float | None = None
    again: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one job."""

    event: str
    story: str
    what: str
    moment: str
    kills: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A scenario that nobody kills: which points it passes, how long it takes, how it ends."""

    points: tuple[Point, ...]
    seconds: float
    ends: Any


def fork(act: Callable[[], Coroutine[Any, Any, None]], log: Path, kill_in: float | None) -> int:
    """Run *act* in a fork; return how it ended: 0, or less than 0 for a signal's number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with log.open("a") as errors, redirect_stderr(errors):
                try:
                    asyncio.run(act())
                    status = 0
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(status)
    return _wait(pid, kill_in)


def _wait(pid: int, kill_in: float | None) -> int:
    end = time.monotonic() + (LIFE if kill_in is None else kill_in)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return code if kill_in is not None else 2
        time.sleep(0.001)


class Stage:
    """A directory with what each scenario begins with."""

    def __init__(self, directory: Path, empty: Path) -> None:
        self._directory = directory
        self._empty = empty

    def begin(self, number: int) -> Folder:
        """Return the folder that scenario *number* begins with."""
        return Folder(self._directory / f"begin-{number}")

    def rehearse(self, number: int) -> Rehearsal:
        """Make the scenario's beginning, and see how it goes when nobody is killed."""
        scenario, begin = SCENARIOS[number], self.begin(number)
        begin.path.mkdir()
        asyncio.run(prepare(begin, self._empty, scenario))
        folder = begin.copy(self._directory / f"rehearsal-{number}")
        wire = Tripwire()
        began = time.monotonic()
        asyncio.run(live(folder, scenario, wire))
        seconds = time.monotonic() - began
        verdict = asyncio.run(judge(folder, scenario, None))
        folder.remove()
        if not verdict.good:
            raise AssertionError(f"{scenario.event}, {scenario.story}: {verdict.notes}")
        return Rehearsal(points=tuple(wire.passed), seconds=seconds, ends=verdict.ends)

    def kill(self, job: Job, normal: Any) -> Row:
        """Carry one job out."""
        scenario = SCENARIOS[job.scenario]
        folder = self.begin(job.scenario).copy(self._directory / f"kill-{os.getpid()}")
        kills, verdict = self._lives(job, scenario, normal, folder)
        folder.remove()
        return Row(
            event=scenario.event,
            story=scenario.story,
            what=job.what,
            moment=job.moment,
            kills=kills,
            verdict=verdict,
        )

    def _lives(
        self, job: Job, scenario: Scenario, normal: Any, folder: Folder
    ) -> tuple[int, Verdict]:
        log, kills, status = folder.path / "log", 0, 0
        first = Tripwire(at=job.at, nth=job.nth)
        deaths = [(first, job.delay)]
        if job.again is not None:
            deaths.append((Tripwire(nth=job.again), None))
        for wire, delay in (*deaths, (Tripwire(), None)):
            status = fork(partial(live, folder, scenario, wire), log, delay)
            kills += status == -signal.SIGKILL
        if status:
            # What never ends is lost: nothing else can be said of it.
            return kills, Verdict(ended_once=False, notes=[f"status {status}: {log.read_text()}"])
        if job.at is not None and not kills:
            return 0, Verdict(whole=False, notes=[f"{job.at} never came"])
        result = folder.path / "verdict"

        async def look() -> None:
            result.write_text((await judge(folder, scenario, normal)).to_json())

        status = fork(look, log, None)
        if status:
            return kills, Verdict(whole=False, notes=[f"status {status}: {log.read_text()}"])
        return kills, Verdict(**json.loads(result.read_text()))


def jobs(
    number: int,
    rehearsal: Rehearsal,
    *,
    random: Random,
    moments: int,
    twice: float,
    some: float,
) -> Iterator[Job]:
    """List a scenario's jobs: each point, some points and a second kill, random moments."""
    count = len(rehearsal.points)
    for index, point in enumerate(rehearsal.points):
        if not SCENARIOS[number].at_once:
            job = Job(scenario=number, what=point.what, moment=point.moment, at=point)
        # Of many workflows at once nobody knows which comes next: a point has a number only.
        elif random.random() < some:
            job = Job(scenario=number, what=IN_A_BURST, moment="", nth=index)
        else:
            continue
        yield job
        if random.random() < twice:
            yield replace(job, what=AGAIN, moment="", again=random.randrange(count - index))
    for _ in range(moments):
        delay = random.random() * rehearsal.seconds
        yield Job(scenario=number, what=ANY_MOMENT, moment="", delay=delay)


def run(
    directory: Path,
    empty: Path,
    *,
    seed: int,
    moments: int,
    tell: Callable[[str], None],
    only: Callable[[Scenario], bool] = lambda _scenario: True,
    twice: float = 0.25,
    some: float = 0.5,
) -> list[Row]:
    """Kill all scenarios everywhere; *tell* hears of the progress.

    *moments* is the number of kills at random moments for each scenario; *twice* is the share of
    points that are followed, once more, by a second kill; *some*, of those at which many workflows
    at once are killed, as that takes its time.
    """
    stage, random = Stage(directory, empty), Random(seed)
    numbers = [number for number, scenario in enumerate(SCENARIOS) if only(scenario)]
    normals = {number: stage.rehearse(number) for number in numbers}
    todo = [
        job
        for number, rehearsal in normals.items()
        for job in jobs(number, rehearsal, random=random, moments=moments, twice=twice, some=some)
    ]
    tell(f"{len(normals)} scenarios, {len(todo)} times killed")
    rows = []
    # Forked, and not started anew: everything is imported and compiled already, and stays shared.
    gc.freeze()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=context) as pool:
        futures = [pool.submit(stage.kill, job, normals[job.scenario].ends) for job in todo]
        for done, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            rows.append(row)
            if not row.verdict.good:
                tell(f"{row.event}, {row.story}, {row.what} {row.moment}: {row.verdict.notes}")
            if done % 100 == 0:
                tell(f"{done} of {len(todo)}")
    return rows
