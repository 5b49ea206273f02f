"""Lets what waits for the same thing go together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

QUIET = 16
"""Calls in a row with one job after which the next job does not wait for company."""

J = TypeVar("J")
R = TypeVar("R")


class Sharing(Generic[J, R]):
    """Hands jobs to *write*, at most *most* at once, in at most *lanes* calls at a time.

    Those who were told together come back together: the more they are, the less each costs. When
    a call with several jobs fails by an error of *alone*, each of them is tried on its own; any
    other error is everybody's.
    """

    def __init__(
        self,
        write: Callable[[Sequence[J]], Awaitable[Sequence[R]]],
        *,
        most: int,
        lanes: int,
        alone: type[Exception],
    ) -> None:
        self._write = write
        self._most = most
        self._lanes = lanes
        self._alone = alone
        self._waiting: deque[tuple[J, asyncio.Future[R]]] = deque()
        self._busy = 0
        self._quiet = QUIET
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, job: J) -> R:
        """Have *job* written; return what *write* returned for it, in its place."""
        if not self._busy and self._quiet >= QUIET:
            return await self._at_once(job)
        told: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, told))
        self._fill_lanes()
        return await told

    async def _at_once(self, job: J) -> R:
        """Write without detour: there was nobody to share with lately."""
        self._busy += 1
        try:
            (result,) = await self._write([job])
        finally:
            self._busy -= 1
            self._fill_lanes()
        return result

    def _fill_lanes(self) -> None:
        if self._waiting and self._busy < self._lanes:
            self._busy += 1
            # What becomes of it is told to those who wait for it.
            task = asyncio.create_task(self._work())  # noqa: TID251
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), self._most)
                self._quiet = self._quiet + 1 if count == 1 else 0
                group = [self._waiting.popleft() for _ in range(count)]
                try:
                    await self._together(group)
                except self._alone:
                    for one in group:
                        await self._together([one])
                # Those who were told may come back at once, and together.
                await asyncio.sleep(0)
        finally:
            self._busy -= 1

    async def _together(self, group: Sequence[tuple[J, asyncio.Future[R]]]) -> None:
        try:
            results = await self._write([job for job, _ in group])
        except BaseException as exc:
            if isinstance(exc, self._alone) and len(group) > 1:
                raise
            for _, told in group:
                if not told.done():
                    told.set_exception(exc)
            return
        for (_, told), result in zip(group, results, strict=True):
            if not told.done():
                told.set_result(result)
