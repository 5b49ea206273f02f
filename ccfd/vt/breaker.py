"""Whether it is worth calling a host now."""

from dataclasses import dataclass

REST = 2.0
"""Seconds between two attempts at a host that is down."""


@dataclass(slots=True)
class Breaker:
    """Open while a host is down: calls fail at once, except that once a rest they may try.

    Times are the caller's, in seconds; the breaker has no clock.
    """

    rest: float = REST
    _next_try: float | None = None

    @property
    def closed(self) -> bool:
        """Whether the host is taken to be up."""
        return self._next_try is None

    def trip(self, now: float, *, rested: bool = False) -> None:
        """Take the host to be down; with *rested* it may be tried at once."""
        self._next_try = now if rested else now + self.rest

    def reset(self) -> None:
        """Take the host to be up."""
        self._next_try = None

    def retry_in(self, now: float) -> float:
        """Return the seconds until the host may be tried again."""
        return 0.0 if self._next_try is None else max(0.0, self._next_try - now)
