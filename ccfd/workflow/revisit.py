"""How a stuck undo comes to be tried again without a person: seldom, and ever more so.

What kept it from being done (a host that was away for an hour, a pool that was read-only) may be
over by now. The request's result has been published long ago, and stays what it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.store.database import Database
from ccfd.store.rounds import rounds
from ccfd.store.tables import request
from ccfd.workflow.intervene import Interventions

log = structlog.get_logger()

TOPIC = "revisit"
LOOK = 10.0
"""Seconds between two looks for stuck requests."""
MOST = 12
"""Times the first pause that the longest one is: an hour with five minutes."""

_UNDONE = select(request.c.request_id, request.c.state).where(
    request.c.unfinished, request.c.state.in_(("stuck", "undoing"))
)


@dataclass(slots=True)
class Visit:
    """When a request's undo is tried next, and the pause before that; seconds of a clock."""

    due: float
    pause: float


class Revisits:
    """Has stuck undos tried again, on the daemon that leads.

    `first` is the pause before the first time; 0: never. Pauses are remembered in memory only: a
    restart, which may be what was missing, begins with the first one again.
    """

    def __init__(
        self,
        database: Database,
        interventions: Interventions,
        leads: Callable[[], bool],
        *,
        first: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._interventions = interventions
        self._leads = leads
        self._first = first
        self._clock = clock
        self._visits: dict[str, Visit] = {}

    async def run(self) -> None:
        """Look, for ever."""
        if self._first:
            await rounds(self._database, TOPIC, LOOK, self.round)

    async def round(self) -> None:
        """Try again what is due."""
        if not self._leads():
            self._visits.clear()
            return
        async with self._database.read() as transaction:
            states = {row.request_id: row.state for row in await transaction.all(_UNDONE)}
        now = self._clock()
        # One that is being undone may be stuck again: its pause is kept.
        self._visits = {name: seen for name, seen in self._visits.items() if name in states}
        for name, state in states.items():
            if state == "stuck":
                seen = self._visits.setdefault(name, Visit(now + self._first, self._first))
                if now >= seen.due:
                    await self._visit(name, seen)

    async def _visit(self, name: str, seen: Visit) -> None:
        try:
            await self._interventions.retry(name)
        except Refused as exc:
            # Something runs for its key, or somebody was faster: the next look tells.
            log.info("stuck request waits", request=name, reason=exc.message)
            return
        log.info("stuck request is tried again", request=name, after=seen.pause)
        seen.pause = min(2 * seen.pause, MOST * self._first)
        seen.due = self._clock() + seen.pause
