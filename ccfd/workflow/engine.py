"""Who runs the workflows: a loop that decides what waits and goes on with what was interrupted."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from sqlalchemy.engine import Row

from ccfd.store.database import Database, DatabaseAway
from ccfd.store.rounds import rounds
from ccfd.workflow.backlog import INTERRUPTED, Backlog
from ccfd.workflow.intake import REQUESTS
from ccfd.workflow.lease import Lease
from ccfd.workflow.records import Flow, LostError, Records
from ccfd.workflow.runner import Runner, Stopping

log = structlog.get_logger()

Begin = Callable[[], Awaitable[Flow | None]]

POLL = 1.0
LOOK = 0.05
"""Seconds between two looks for interrupted requests at least: one costs as much as a request."""
AHEAD = 256
"""Waiting requests that are read at once."""
WAIT = 0.02
"""Seconds that a workflow which began ahead of its turn shall wait for it, as far as one knows."""
LONG = 0.1
"""Seconds after which one that has waited all the same asks whether it was cancelled meanwhile."""


class Engine:
    """Runs up to `concurrency` workflows at once, one for a key, while it holds the lease.

    So many act on hosts. One whose steps are over makes room before its end is stored, and where
    many come to that, as many are begun before it is their turn: when a workflow has its turn, it
    waits for no other's commit.
    """

    def __init__(
        self,
        database: Database,
        backlog: Backlog,
        records: Records,
        runner: Runner,
        lease: Lease,
        *,
        concurrency: int,
    ) -> None:
        self._database = database
        self._backlog = backlog
        self._records = records
        self._runner = runner
        self._lease = lease
        self._concurrency = concurrency
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(concurrency)
        self._at_rest: set[int] = set()
        self._rests: deque[float] = deque(maxlen=concurrency + 1)
        self._candidates: deque[Row[Any]] = deque()
        self._looked_at = -POLL
        self._waits = False
        self._planned: asyncio.TimerHandle | None = None
        self._interrupted = asyncio.Event()
        self._stopping = asyncio.Event()
        lease.on_loss = self._drop_all
        lease.on_change = self._look

    def stop(self) -> None:
        """Begin nothing more; let each running workflow reach its next record."""
        self._stopping.set()
        self._runner.stopping.set()
        self._database.signals.wake(REQUESTS)

    def _drop_all(self) -> None:
        """Stop everything where it is: others may do it now."""
        for task in self._tasks.values():
            task.cancel()

    async def run(self) -> None:
        """Run until `stop`, then until every workflow under way has reached a record."""
        async with (
            self._database.signals.listen(INTERRUPTED) as self._interrupted,
            asyncio.TaskGroup() as group,
        ):
            await rounds(
                self._database,
                REQUESTS,
                POLL,
                lambda: self._round(group),
                until=self._stopping,
            )

    def _look(self) -> None:
        """Look for interrupted requests in the next round."""
        self._planned = None
        self._interrupted.set()
        self._database.signals.wake(REQUESTS)

    async def _round(self, group: asyncio.TaskGroup) -> None:
        if not self._lease.held:
            return
        me = self._lease.id
        free = self._free
        if free and self._is_time_to_look():
            rows = await self._backlog.take_up(me, tuple(self._tasks), free)
            for row in rows:
                self._start(group, row.seq, partial(self._records.resume, row, me))
            if len(rows) == free:
                self._interrupted.set()
        while self._free and await self._more():
            row = self._candidates.popleft()
            self._start(group, row.seq, partial(self._records.begin, row, me))

    @property
    def _free(self) -> int:
        """Tell how many more may be begun.

        As many ahead of their turn as have come to rest lately, one after another: about so long
        will they wait for it. Of those that wait, act and are being ended there are `concurrency`
        each at most.
        """
        lately = asyncio.get_running_loop().time() - WAIT
        while self._rests and self._rests[0] < lately:
            self._rests.popleft()
        known = len(self._tasks)
        acting = known - len(self._at_rest)
        ahead = max(0, len(self._rests) - 1)
        return max(0, min(self._concurrency + ahead - acting, 3 * self._concurrency - known))

    def _is_time_to_look(self) -> bool:
        """Tell whether to look for interrupted requests in this round.

        When somebody says that there may be some, and sometimes though nobody did.
        """
        loop = asyncio.get_running_loop()
        now, earliest = loop.time(), self._looked_at + LOOK
        if not self._interrupted.is_set() and now < self._looked_at + POLL:
            return False
        if now < earliest:
            if self._planned is None:
                self._planned = loop.call_at(earliest, self._look)
            return False
        self._interrupted.clear()
        self._looked_at = now
        return True

    async def _more(self) -> bool:
        """Tell whether a request waits; ask the database when none is known.

        Whether one that is known still waits, and is the first of its key, is asked when it
        begins.
        """
        if not self._candidates:
            # What is started already may still count as waiting: ask for as many more.
            known = frozenset(self._tasks)
            found = await self._backlog.waiting(len(known) + AHEAD)
            self._candidates.extend(row for row in found if row.seq not in known)
        return bool(self._candidates)

    def _start(self, group: asyncio.TaskGroup, seq: int, begin: Begin) -> None:
        if seq in self._tasks:
            return
        task = group.create_task(self._carry_out(seq, begin), name=f"request {seq}")
        self._tasks[seq] = task
        # Not at its end: one that is cancelled before it began never comes there.
        task.add_done_callback(partial(self._ended, seq))

    def _ended(self, seq: int, _task: asyncio.Task[None]) -> None:
        del self._tasks[seq]
        self._at_rest.discard(seq)
        if self._free:
            self._database.signals.wake(REQUESTS)

    async def _carry_out(self, seq: int, begin: Begin) -> None:
        """Bring one request to its end, or leave it as recorded for a later round."""
        try:
            flow = await begin()
            if flow is not None:
                await self._act(flow)
                await self._runner.end(flow)
            self._waits = False
        except DatabaseAway as exc:
            # What was recorded stands; what was not is done again.
            if not self._waits:
                log.warning("workflows wait for the database", reason=exc.message)
            self._waits = True
            self._interrupted.set()
            await self._pause()
        except Stopping:
            log.info("workflow left for the next start", seq=seq)
        except LostError as exc:
            log.warning("request was taken over or ended elsewhere", request=str(exc))
        except Exception as exc:
            # One defective request must not stop the others, nor be tried for ever.
            log.exception("workflow is defective", seq=seq)
            await self._break_off(seq, repr(exc))

    async def _act(self, flow: Flow) -> None:
        """Have the steps of *flow* done, or undone, when it is its turn; then make room."""
        loop = asyncio.get_running_loop()
        long = loop.time() + LONG
        async with self._turns:
            if self._stopping.is_set():
                raise Stopping
            if loop.time() > long:
                await self._records.heed(flow)
            await self._runner.act(flow)
        self._at_rest.add(flow.seq)
        self._rests.append(loop.time())
        self._database.signals.wake(REQUESTS)

    async def _break_off(self, seq: int, reason: str) -> None:
        try:
            await self._records.break_off(seq, reason)
        except DatabaseAway:
            self._interrupted.set()
            await self._pause()
        except LostError:
            log.info("defective workflow was ended elsewhere", seq=seq)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._stopping.wait()
