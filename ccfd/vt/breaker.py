"""Is it worth calling this host now?"""

from dataclasses import dataclass

REST = 1.0
"""Seconds between two attempts at a host that is down."""


@dataclass(slots=True)
class Breaker:
    """Open while a host is down: calls fail at once, and one of them a while may try.

    Times are the caller's, in seconds; the breaker has no clock.
    """

    rest: float = REST
    _next_try: float | None = None

    @property
    def closed(self) -> bool:
        """Whether the host is taken to be up."""
        return self._next_try is None

    def trip(self, now: float, *, rested: bool = False) -> None:
        """Take the host to be down; with *rested* the next caller may try at once."""
        self._next_try = now if rested else now + self.rest

    def reset(self) -> None:
        """Take the host to be up."""
        self._next_try = None

    def claim_try(self, now: float) -> bool:
        """Tell whether the caller may try the host; everybody else waits another rest."""
        if self._next_try is None:
            return True
        if now < self._next_try:
            return False
        self._next_try = now + self.rest
        return True

    def retry_in(self, now: float) -> float:
        """Return the seconds until somebody may try again."""
        return 0.0 if self._next_try is None else max(0.0, self._next_try - now)
