"""Who runs the workflows: a loop that decides what waits and goes on with what was interrupted."""

import asyncio
from contextlib import suppress

import structlog

from ccfd.store.database import Database, DatabaseAway
from ccfd.store.rounds import rounds
from ccfd.workflow.intake import REQUESTS
from ccfd.workflow.lease import Lease
from ccfd.workflow.records import LostError, Records
from ccfd.workflow.runner import Runner, Stopping

log = structlog.get_logger()

POLL = 1.0


class Engine:
    """Runs up to `concurrency` workflows at once, one for a key, while it holds the lease."""

    def __init__(
        self,
        database: Database,
        records: Records,
        runner: Runner,
        lease: Lease,
        *,
        concurrency: int,
    ) -> None:
        self._database = database
        self._records = records
        self._runner = runner
        self._lease = lease
        self._concurrency = concurrency
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        lease.on_loss = self._drop_all

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
        async with asyncio.TaskGroup() as group:
            await rounds(
                self._database,
                REQUESTS,
                POLL,
                lambda: self._round(group),
                until=self._stopping,
            )

    async def _round(self, group: asyncio.TaskGroup) -> None:
        free = self._concurrency - len(self._tasks)
        if free <= 0 or not self._lease.held:
            return
        me = self._lease.id
        found = [*await self._records.interrupted(me)]
        # Those just started may still count as waiting: ask for as many more.
        found += await self._records.waiting(free + len(self._tasks))
        for seq in [seq for seq in found if seq not in self._tasks][:free]:
            self._tasks[seq] = group.create_task(self._carry_out(seq, me), name=f"request {seq}")

    async def _carry_out(self, seq: int, me: str) -> None:
        """Bring one request to its end, across outages of the database."""
        try:
            while not self._stopping.is_set() and not await self._try(seq, me):
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._stopping.wait()
        finally:
            del self._tasks[seq]
            self._database.signals.wake(REQUESTS)

    async def _try(self, seq: int, me: str) -> bool:
        """Go on with one request; return False when it is to be looked at again."""
        try:
            flow = await self._records.begin(seq, me)
            if flow is not None:
                await self._runner.run(flow)
        except DatabaseAway as exc:
            # What was recorded stands; what was not is done again.
            log.warning("workflow waits for the database", reason=exc.message)
            return False
        except Stopping:
            log.info("workflow left for the next start", seq=seq)
        except LostError as exc:
            log.warning("request was taken over or ended elsewhere", request=str(exc))
        except Exception as exc:
            # One defective request must not stop the others, nor be tried for ever.
            log.exception("workflow is defective", seq=seq)
            try:
                await self._records.break_off(seq, repr(exc))
            except DatabaseAway:
                return False
        return True
