"""When a loss is looked into, and how often."""

import heapq
from collections.abc import Callable

from ccfd.handlers.disturbances import Disturbances

EVERY = 30.0


class Clock:
    """A timer whose time passes when a test says so; `looks` are the times of looks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks: list[float] = []
        self.whole = True
        self.on_look: Callable[[], None] = lambda: None
        self.disturbances = Disturbances(self._look, EVERY, lambda: self)
        self._calls: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (when, callback))

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self.now, callback = heapq.heappop(self._calls)
            callback()
        self.now = end

    def _look(self) -> None:
        self.looks.append(round(self.now - 1000.0, 3))
        self.disturbances.seen(whole=self.whole)
        self.on_look()


def test_what_breaks_together_is_looked_at_once_and_at_once() -> None:
    clock = Clock()
    for what in "abc":
        clock.disturbances.tell(what, "h1")
    clock.passes(100)
    assert clock.looks == [0.2]


def test_a_place_that_says_nothing_is_asked_again_until_the_sweeps_are_enough() -> None:
    clock = Clock()
    clock.whole = False
    clock.disturbances.tell("gone", "h1")
    clock.passes(1000)
    assert clock.looks == [0.2, 1.2, 3.2, 7.2, 15.2, 25.2, 35.2, 45.2, 55.2, 65.2]


def test_what_dies_over_and_over_is_looked_at_ever_less_often() -> None:
    clock = Clock()
    clock.on_look = lambda: clock.disturbances.tell("died", "ccf-1")
    clock.disturbances.tell("died", "ccf-1")
    clock.passes(60)
    assert clock.looks == [0.2, 1.2, 3.2, 7.2, 15.2, 25.2, 35.2, 45.2, 55.2]


def test_after_a_time_of_peace_a_loss_is_looked_at_at_once_again() -> None:
    clock = Clock()
    clock.whole = False
    clock.disturbances.tell("gone", "h1")
    clock.passes(80)
    clock.whole = True
    before = len(clock.looks)
    clock.disturbances.tell("gone", "h1")
    clock.passes(80)
    assert clock.looks[before:] == [80.2]
