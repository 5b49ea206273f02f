"""Who runs the workflows: a loop that decides what waits and goes on with what was interrupted."""

import asyncio
from contextlib import suppress

import structlog

from ccfd.store.database import Database, DatabaseAway
from ccfd.store.rounds import rounds
from ccfd.workflow.intake import REQUESTS
from ccfd.workflow.records import LostError, Records
from ccfd.workflow.runner import Runner, Stopping

log = structlog.get_logger()

POLL = 1.0


class Engine:
    """Runs up to `concurrency` workflows at once, one for a key."""

    def __init__(
        self, database: Database, records: Records, runner: Runner, *, concurrency: int
    ) -> None:
        self._database = database
        self._records = records
        self._runner = runner
        self._concurrency = concurrency
        self._busy: set[int] = set()
        self._resumed = False
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing more; let each running workflow reach its next record."""
        self._stopping.set()
        self._runner.stopping.set()
        self._database.signals.wake(REQUESTS)

    async def run(self) -> None:
        """Run until `stop`, then until every workflow under way has reached a record."""
        async with asyncio.TaskGroup() as group:
            await rounds(
                self._database,
                REQUESTS,
                POLL,
                lambda: self._round(group),
                until=self._stopping,
            )

    async def _round(self, group: asyncio.TaskGroup) -> None:
        if not self._resumed:
            for seq in await self._records.interrupted():
                self._start(group, seq)
            self._resumed = True
        free = self._concurrency - len(self._busy)
        if free <= 0:
            return
        # Those just started may still count as waiting: ask for as many more.
        waiting = await self._records.waiting(free + len(self._busy))
        for seq in [seq for seq in waiting if seq not in self._busy][:free]:
            self._start(group, seq)

    def _start(self, group: asyncio.TaskGroup, seq: int) -> None:
        self._busy.add(seq)
        group.create_task(self._carry_out(seq), name=f"request {seq}")

    async def _carry_out(self, seq: int) -> None:
        """Bring one request to its end, across outages of the database."""
        try:
            while not self._stopping.is_set() and not await self._try(seq):
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._stopping.wait()
        finally:
            self._busy.discard(seq)
            self._database.signals.wake(REQUESTS)

    async def _try(self, seq: int) -> bool:
        """Go on with one request; return False when it is to be looked at again."""
        try:
            flow = await self._records.begin(seq)
            if flow is not None:
                await self._runner.run(flow)
        except DatabaseAway as exc:
            # What was recorded stands; what was not is done again.
            log.warning("workflow waits for the database", reason=exc.message)
            return False
        except Stopping:
            log.info("workflow left for the next start", seq=seq)
        except LostError as exc:
            log.warning("request was ended elsewhere", request=str(exc))
        except Exception as exc:
            # One defective request must not stop the others, nor be tried for ever.
            log.exception("workflow is defective", seq=seq)
            try:
                await self._records.break_off(seq, repr(exc))
            except DatabaseAway:
                return False
        return True
