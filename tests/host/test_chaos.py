"""A short form of the kill matrix (`make chaos`): one story everywhere, a few kills in a lab."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
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


def killed(
    only: Callable[[Scenario], bool],
    seed: int,
    *,
    moments: int,
    twice: float = 0,
    some: float = 0,
) -> list[matrix.Row]:
    with scratch() as name:
        directory = Path(name)
        return matrix.run(
            directory,
            template(directory),
            seed=seed,
            moments=moments,
            tell=print,
            only=only,
            twice=twice,
            some=some,
        )


def test_a_kill_at_any_point_of_a_story_ends_once_and_leaks_nothing(seed: int) -> None:
    def grows_and_fails(scenario: Scenario) -> bool:
        return scenario.event == "vm.create" and scenario.story == "boot lost"

    rows = killed(grows_and_fails, seed, moments=5)
    points = {(row.what, row.moment) for row in rows if row.kills}
    assert points >= {("boot", "during"), ("undo make-disk", "during"), ("commit: forget", "after")}
    assert all(row.verdict.good for row in rows)


def test_a_kill_of_many_at_once_ends_each_once_and_leaks_nothing(seed: int) -> None:
    rows = killed(lambda scenario: scenario.at_once > 0, seed, moments=2, twice=0.25, some=0.02)
    # How many of the points are chosen is left to chance.
    assert any(row.kills for row in rows)
    assert all(row.verdict.good for row in rows)


def test_kills_in_a_lab_end_once_and_leak_nothing(lab: Lab, seed: int) -> None:
    rows = asyncio.run(lab_kills.run(lab, KILLS, seed=seed, tell=print))
    assert sum(row.kills for row in rows) == KILLS
    assert all(row.verdict.good for row in rows)
    assert Report(seed=seed, lab=rows).good
