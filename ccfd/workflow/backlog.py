"""What is there to be carried out: requests that wait, and those whose daemon is gone."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import structlog
from sqlalchemy import and_, bindparam, exists, select, update
from sqlalchemy.engine import Row

from ccfd.store.database import Database, Transaction
from ccfd.store.tables import daemon, request, workflow
from ccfd.workflow.ledger import is_open, must_wait
from ccfd.workflow.results import Asked
from ccfd.workflow.steps import Steps

log = structlog.get_logger()

INTERRUPTED = "interrupted"
"""The topic that is woken when a request under way may be without a daemon."""

AWAITING = "children"
"""The owner of a workflow that awaits its children; the daemon that looks when they have ended
takes it up."""

_WAITING = (
    select(
        *(request.c[name] for name in (*Asked._fields, "seq", "body", "cancelled", "received_at"))
    )
    .where(
        request.c.state == "queued",
        request.c.terminal.is_(None),
        request.c.type.in_(bindparam("types", expanding=True)),
        ~must_wait(request),
    )
    .order_by(request.c.seq)
)
_child = request.alias()
_INTERRUPTED = (
    select(request.c.seq)
    .join(workflow)
    .where(
        workflow.c.key.is_not(None),
        workflow.c.owner.not_in(select(daemon.c.id).where(daemon.c.id != bindparam("me"))),
        ~and_(
            workflow.c.owner == AWAITING,
            exists().where(_child.c.parent == request.c.workflow_id, is_open(_child)),
        ),
    )
    .order_by(request.c.seq)
)


class Backlog:
    """Finds requests for this daemon.

    What it does not know, a type of requests or the name of an effect, is left to a daemon that
    does: while ccfd is upgraded, an older and a newer one run side by side.
    """

    def __init__(
        self, database: Database, types: Collection[str], effects: Collection[str]
    ) -> None:
        self._database = database
        self._types = types
        self._effects = effects
        self._foreign: set[int] = set()

    async def waiting(self, limit: int) -> Sequence[Row[Any]]:
        """Return, in stored order, the requests that are first in the queue of their key."""
        known = _WAITING.params(types=list(self._types))
        async with self._database.read() as transaction:
            return await transaction.all(known.limit(limit))

    async def take_up(self, me: str, known: Collection[int], limit: int) -> Sequence[Row[Any]]:
        """Make requests under way that no living daemon carries out those of daemon *me*.

        Not those whose number is among *known*, nor those that await children.
        """
        async with self._database.read() as transaction:
            found = await transaction.all(_INTERRUPTED.params(me=me))
        free = [row.seq for row in found if row.seq not in known and row.seq not in self._foreign]
        if not free:
            return []
        return await self._database.run(partial(self._take_up, me, free[:limit]))

    async def _take_up(
        self, me: str, seqs: list[int], transaction: Transaction
    ) -> Sequence[Row[Any]]:
        rows = await transaction.all(
            _INTERRUPTED.params(me=me)
            .with_only_columns(request, workflow.c.epoch, workflow.c.journal)
            .where(request.c.seq.in_(seqs))
            .with_for_update(skip_locked=True, of=workflow)
        )
        rows = list(self._readable(rows))
        await transaction.execute(
            update(workflow)
            .where(workflow.c.seq.in_([row.seq for row in rows]))
            # A new epoch even where it was ours: what of the old one is on its way comes too late.
            .values(owner=me, epoch=workflow.c.epoch + 1)
        )
        return rows

    def _readable(self, rows: Sequence[Row[Any]]) -> Iterable[Row[Any]]:
        for row in rows:
            names = {step.name for step in Steps.from_json(row.steps).flat}
            unknown = sorted(name for name in names if name not in self._effects)
            if row.type in self._types and not unknown:
                yield row
                continue
            self._foreign.add(row.seq)
            log.error(
                "left to a daemon that knows its steps",
                request=row.request_id,
                type=row.type,
                unknown=unknown,
            )
