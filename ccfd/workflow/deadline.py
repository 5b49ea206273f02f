"""Breaks off what takes too long: one timer for many, as all of them have the same time.

`asyncio.timeout` makes a timer for each block; timers that were not needed stay in the event
loop's heap, and at thousands of steps a second they cost as much as all the rest of a step.
"""

import asyncio
from asyncio import CancelledError, TimerHandle, current_task
from typing import Any


class Deadline:
    """So many *seconds* for each block under `with deadline.watch():`.

    A block that takes longer is cancelled, and raises `TimeoutError`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.watched: dict[Watch, None] = {}
        """Those under way, in the order in which their time is over."""
        self._timer: TimerHandle | None = None

    def watch(self) -> "Watch":
        """Give a block its time, from now on."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._timer is None:
            self._timer = loop.call_at(began + self.seconds, self._look, loop)
        return Watch(self, loop, began)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for watch in tuple(self.watched):
            ends_at = watch.began + self.seconds
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._look, loop)
                return
            watch.break_off()


class Watch:
    """One block. `seconds` tells how long it has taken so far."""

    __slots__ = ("_broken_off", "_deadline", "_loop", "_task", "began")

    def __init__(self, deadline: Deadline, loop: asyncio.AbstractEventLoop, began: float) -> None:
        self.began = began
        self._deadline = deadline
        self._loop = loop
        self._task = current_task(loop)
        self._broken_off = False

    @property
    def seconds(self) -> float:
        """Tell how long the block has taken so far."""
        return self._loop.time() - self.began

    def break_off(self) -> None:
        """Cancel the block."""
        del self._deadline.watched[self]
        self._broken_off = True
        assert self._task is not None
        self._task.cancel()

    def __enter__(self) -> "Watch":
        """Begin the block."""
        self._deadline.watched[self] = None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: Any) -> None:
        """End it. Whoever else cancelled it meanwhile is heeded, as by `asyncio.timeout`."""
        if not self._broken_off:
            del self._deadline.watched[self]
            return
        assert self._task is not None
        if self._task.uncancel() == 0 and kind is CancelledError:
            raise TimeoutError
