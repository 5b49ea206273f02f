"""A short form of the kill matrix (`make chaos`): one story everywhere, a few kills in a lab."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from tests.chaos import lab_kills, matrix
from tests.chaos.life import scratch
from tests.chaos.report import Report
from tests.chaos.scenarios import Scenario
from tests.harness import template
from tests.lab import Lab

KILLS = 5


@pytest.fixture
def seed() -> int:
    # Printed when a test fails; every run cuts elsewhere.
    chosen = SystemRandom().randrange(1 << 30)
    print(f"seed {chosen}")
    return chosen


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab.up(tmp_path / "lab", hosts=2)
    yield lab
    lab.down()


def test_a_kill_at_any_point_of_a_story_ends_once_and_leaks_nothing(seed: int) -> None:
    def grows_and_fails(scenario: Scenario) -> bool:
        return scenario.event == "vm.create" and scenario.story == "boot lost"

    with scratch() as name:
        directory = Path(name)
        rows = matrix.run(
            directory,
            template(directory),
            seed=seed,
            moments=5,
            tell=print,
            only=grows_and_fails,
            twice=0,
        )
    killed = {(row.what, row.moment) for row in rows if row.kills}
    assert killed >= {("boot", "during"), ("undo make-disk", "during"), ("commit: forget", "after")}
    assert all(row.verdict.good for row in rows)


def test_a_kill_of_many_at_once_ends_each_once_and_leaks_nothing(seed: int) -> None:
    with scratch() as name:
        directory = Path(name)
        rows = matrix.run(
            directory,
            template(directory),
            seed=seed,
            moments=2,
            tell=print,
            only=lambda scenario: scenario.at_once > 0,
            some=0.02,
        )
    assert sum(row.kills for row in rows) > 2
    assert all(row.verdict.good for row in rows)


def test_kills_in_a_lab_end_once_and_leak_nothing(lab: Lab, seed: int) -> None:
    rows = asyncio.run(lab_kills.run(lab, KILLS, seed=seed, tell=print))
    assert sum(row.kills for row in rows) == KILLS
    assert all(row.verdict.good for row in rows)
    assert Report(seed=seed, lab=rows).good
