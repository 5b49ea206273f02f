"""When hosts are looked at sooner than by the next sweep: something of ours was lost just now."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger()

AT_ONCE = 0.2
"""Seconds until the first look: what breaks together is told one by one."""
FIRST = 1.0
"""Seconds between the first two looks; each next pause is twice as long."""


class Timer(Protocol):
    """What asks for a look later on: an event loop."""

    def time(self) -> float:
        """Return its clock, in seconds."""

    def call_at(self, when: float, callback: Callable[[], None], /) -> object:
        """Call *callback* at that time."""


class Disturbances:
    """Has hosts looked at, by *wake*, after something was lost, and again while not all was seen.

    What is lost over and over, as a server that always dies, is looked at ever less often, but
    thrice in the time of a sweep (*every*, seconds).
    """

    def __init__(
        self,
        wake: Callable[[], None],
        every: float,
        timer: Callable[[], Timer] = asyncio.get_running_loop,
    ) -> None:
        self._wake = wake
        self._timer = timer
        self._every = every
        self._pause = 0.0
        self._last = 0.0
        """When hosts were looked at because of this."""
        self._until = 0.0
        """When a trouble is none of a moment any more: the sweeps are enough for it."""
        self._coming = False

    def tell(self, what: str, where: str) -> None:
        """Have hosts looked at: *what* has happened *where*."""
        now = self._timer().time()
        if now >= self._until - self._every:  # it was quiet for as long as a sweep
            self._pause = 0.0
        self._until = now + 2 * self._every
        if self._look_after(AT_ONCE):
            log.info("hosts are looked at soon", why=what, where=where)

    def seen(self, *, whole: bool) -> None:
        """Hear of a look at the hosts: whether it saw every place, and every slice at rest."""
        if not whole and self._timer().time() < self._until:
            self._look_after(FIRST)

    def _look_after(self, seconds: float) -> bool:
        """Ask for a look; tell whether none was asked for yet."""
        if self._coming:
            return False
        self._coming = True
        timer = self._timer()
        timer.call_at(max(timer.time() + seconds, self._last + self._pause), self._look)
        return True

    def _look(self) -> None:
        self._coming = False
        self._last = self._timer().time()
        self._pause = min(max(FIRST, 2 * self._pause), self._every / 3)
        self._wake()
