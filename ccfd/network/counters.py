"""What went through a port, and how fast: from the statistics that a switch tells now and then.

Both ways are named as whoever is behind the port sees them: a VM *receives* what its switch sends
to its tap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PERIOD = 5.0
"""Seconds between two refreshes of a switch's statistics (ovs-vswitchd.conf.db(5), Open_vSwitch
`other_config:stats-update-interval`: 5,000 ms by default, and at least)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What went one way since the port was opened; `drops` is None where the switch has no count.

    All three are counted in whole; a port that is opened anew counts from nothing.
    """

    bytes: int
    packets: int
    drops: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What went both ways through a port."""

    receive: Flow
    transmit: Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one way is: bytes and packets a second."""

    bytes: float
    packets: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast both ways are."""

    receive: Speed
    transmit: Speed


def read(statistics: Mapping[str, int]) -> Counters | None:
    """Read column `statistics` of an Interface row; None while the switch has the link not open."""
    if "rx_bytes" not in statistics:
        return None
    return Counters(
        # The switch's "tx" is what it sends to whoever is behind the port.
        receive=_flow(statistics, "tx"),
        transmit=_flow(statistics, "rx"),
    )


def _flow(statistics: Mapping[str, int], way: str) -> Flow:
    return Flow(
        bytes=statistics.get(f"{way}_bytes", 0),
        packets=statistics.get(f"{way}_packets", 0),
        drops=statistics.get(f"{way}_dropped"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A port's newest counters and those before them; times are monotonic, in seconds.

    `at` is None where it is not known when the switch looked: they were there when we came.
    """

    now: Counters
    at: float | None
    before: Counters | None = None
    before_at: float | None = None

    def next(self, counters: Counters, at: float) -> "Trend":
        """Return the trend with what the switch told at *at*."""
        return Trend(now=counters, at=at, before=self.now, before_at=self.at)

    def rates(self, at: float, period: float) -> Rates | None:
        """Return how fast it is at *at*, for a switch that looks every *period* seconds.

        None: not known yet, or the counters went back, because the port was opened anew.
        """
        if self.before is None or self.at is None:
            return None
        if at - self.at > 1.5 * period:  # a switch tells only of what has changed
            return Rates(receive=Speed(bytes=0, packets=0), transmit=Speed(bytes=0, packets=0))
        seconds = self._seconds(period)
        ways = [
            _speed(before, now, seconds)
            for before, now in (
                (self.before.receive, self.now.receive),
                (self.before.transmit, self.now.transmit),
            )
        ]
        return None if None in ways else Rates(receive=ways[0], transmit=ways[1])  # type: ignore[arg-type]  # both are there

    def _seconds(self, period: float) -> float:
        """Return the time in which the newest change came about.

        That is one period, also after a long silence, and when we came to hear two refreshes at
        once; only where it is plausible the clock knows better.
        """
        if self.at is None or self.before_at is None:
            return period
        gap = self.at - self.before_at
        return gap if 0.5 * period <= gap <= 1.5 * period else period


def _speed(before: Flow, now: Flow, seconds: float) -> Speed | None:
    if now.bytes < before.bytes or now.packets < before.packets:
        return None
    return Speed(
        bytes=(now.bytes - before.bytes) / seconds, packets=(now.packets - before.packets) / seconds
    )
