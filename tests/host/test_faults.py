"""A short form of the fault table (`make faults`): few slices, three faults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random, SystemRandom

import pytest

from tests.chaos.faults import load
from tests.chaos.faults.fault import FAULTS, Fault
from tests.chaos.faults.page import page
from tests.lab import Lab

SLICES = 4


def fault(what: str, how: str) -> Fault:
    return next(one for one in FAULTS if (one.what, one.how) == (what, how))


@pytest.fixture
def seed() -> int:
    # Printed when a test fails; every run cuts elsewhere.
    chosen = SystemRandom().randrange(1 << 30)
    print(f"seed {chosen}")
    return chosen


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("faults") / "lab", hosts=2)
    load.blank_image(lab)
    yield lab
    lab.down()


@pytest.mark.parametrize(
    ("what", "how"),
    [("PostgreSQL", "killed"), ("one ccfd of two", "killed"), ("one ccfd of two", "frozen")],
)
def test_a_fault_under_load_loses_doubles_and_leaks_nothing(
    lab: Lab, seed: int, what: str, how: str
) -> None:
    rows = asyncio.run(load.run(lab, fault(what, how), SLICES, random=Random(seed), tell=print))
    for row in rows:
        print(row)
        assert row.good, row.notes
        assert row.once == row.succeeded + row.undone + row.half == row.requests
    assert "| 0 | 0 |" in page(rows, slices=SLICES, seed=seed)
