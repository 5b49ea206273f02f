"""How a workflow's row is written: begun, recorded, ended; what waits together shares a commit.

Each write asks for the row's owner and epoch, so that a daemon that lost its lease can write
nothing (docs/adr/0007). On PostgreSQL one statement writes any number of rows, and goes out alone
where the handler has no statements of its own; else it is the last of their transaction. SQLite,
which serves one daemon, takes the rows one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Update,
    exists,
    func,
    insert,
    literal,
    or_,
    update,
)
from sqlalchemy.engine import Row

from ccfd.store.bulk import encoded
from ccfd.store.database import Database, RaceLost, Transaction
from ccfd.store.tables import Json, outbox, request
from ccfd.workflow.sharing import Sharing

OPEN = ("queued", "running", "undoing")

MOST = 64
"""Rows that share a commit at most."""
LANES = 2
"""Commits under way at once: while one is written, the next fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A waiting request has become a workflow of *owner*.

    Not one that has been cancelled, nor one that has to wait for another of its key.
    """

    workflow_id: str
    owner: str
    epoch: int
    plan: dict[str, Any]
    steps: dict[str, Any]
    journal: dict[str, Any]
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A workflow of *owner* stands at *journal*."""

    workflow_id: str
    owner: str
    epoch: int
    state: str
    journal: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request of *owner* (None: it never began) has ended, with *messages* for the outbox.

    What the row has already stays: its first `terminal`, its `journal` where this one is None.
    """

    workflow_id: str
    owner: str | None
    epoch: int
    state: str
    terminal: dict[str, Any] | None
    journal: dict[str, Any] | None
    now: datetime
    messages: list[dict[str, Any]]


Entry = Begun | Recorded | Ended


@dataclass(frozen=True, slots=True)
class Told:
    """What a written row says: whether its request has been cancelled, and when it came."""

    cancelled: bool
    received_at: datetime


class Ledger:
    """Writes entries; each returns None when the row is not its daemon's any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shared = {
            kind: Sharing[Any, Told | None](
                partial(self._together, kind), most=MOST, lanes=LANES, alone=RaceLost
            )
            for kind in _TOGETHER
        }

    async def write(self, entry: Entry, transaction: Transaction | None = None) -> Told | None:
        """Write *entry*, within *transaction* where that has begun (or there is no other way)."""
        if self._database.is_sqlite:
            if transaction is None:
                return await self._database.run(partial(_write_alone, entry))
            return await _write_alone(entry, transaction)
        if transaction is None or not transaction.begun:
            return await self._shared[type(entry)](entry)
        connection = await transaction.connection()
        rows = await connection.exec_driver_sql(_TOGETHER[type(entry)], tuple(_arrays([entry])))
        row = rows.first()
        return None if row is None else Told(row.cancelled, row.received_at)

    async def _together(self, kind: type[Entry], entries: Sequence[Entry]) -> list[Told | None]:
        rows = await self._database.fetch(_TOGETHER[kind], *_arrays(entries))
        told = {row["workflow_id"]: Told(row["cancelled"], row["received_at"]) for row in rows}
        return [told.get(entry.workflow_id) for entry in entries]


def _arrays(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return the entries' fields, one array each, as `unnest` takes them."""
    return [
        [encoded(getattr(entry, field.name)) for entry in entries] for field in fields(entries[0])
    ]


# Rows are to be found by workflow_id, whatever PostgreSQL estimates, which lags behind a burst of
# requests: hence `= ANY`, and no condition on `state`, which would match a partial index and have
# it look through all that waits. Who waits has neither owner nor terminal result.
_TOGETHER: dict[type[Entry], str] = {
    Begun: """
        UPDATE request AS r
        SET state = 'running', owner = v.owner, epoch = v.epoch, started_at = v.now,
            plan = v.plan::json, steps = v.steps::json, journal = v.journal::json
        FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[],
                    $7::timestamptz[])
            AS v(workflow_id, owner, epoch, plan, steps, journal, now)
        WHERE r.workflow_id = ANY ($1) AND r.workflow_id = v.workflow_id AND r.epoch = v.epoch - 1
            AND r.owner IS NULL AND r.terminal IS NULL AND NOT r.cancelled
            AND NOT EXISTS (
                SELECT FROM request AS o
                WHERE o.key = r.key AND o.state IN ('queued', 'running', 'undoing')
                    AND (o.seq < r.seq OR o.state <> 'queued') AND o.seq <> r.seq)
        RETURNING r.workflow_id, r.cancelled, r.received_at""",
    Recorded: """
        UPDATE request AS r SET state = v.state, journal = v.journal::json
        FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[])
            AS v(workflow_id, owner, epoch, state, journal)
        WHERE r.workflow_id = ANY ($1) AND r.workflow_id = v.workflow_id
            AND r.owner = v.owner AND r.epoch = v.epoch
        RETURNING r.workflow_id, r.cancelled, r.received_at""",
    Ended: """
        WITH ended AS (
            UPDATE request AS r
            SET state = v.state, owner = NULL,
                terminal = coalesce(r.terminal, v.terminal::json),
                journal = coalesce(v.journal::json, r.journal),
                started_at = coalesce(r.started_at, v.now), ended_at = coalesce(r.ended_at, v.now)
            FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[],
                        $7::timestamptz[], $8::text[])
                AS v(workflow_id, owner, epoch, state, terminal, journal, now, messages)
            WHERE r.workflow_id = ANY ($1) AND r.workflow_id = v.workflow_id
                AND r.owner IS NOT DISTINCT FROM v.owner
                AND r.epoch = v.epoch AND (r.owner IS NOT NULL OR r.terminal IS NULL)
            RETURNING r.workflow_id, r.cancelled, r.received_at, r.seq, v.now, v.messages
        ), said AS (
            INSERT INTO outbox (message_id, exchange, routing_key, type, correlation_id,
                                content_type, headers, body, slice, created_at)
            SELECT m.message_id, m.exchange, m.routing_key, m.type, m.correlation_id,
                   m.content_type, m.headers, convert_to(m.body, 'UTF8'), m.slice, ended.now
            FROM ended CROSS JOIN json_to_recordset(ended.messages::json)
                AS m(message_id text, exchange text, routing_key text, type text,
                     correlation_id text, content_type text, headers json, body text, slice text)
            ORDER BY ended.seq
        )
        SELECT workflow_id, cancelled, received_at FROM ended""",
}


def must_wait(one: FromClause) -> ColumnElement[bool]:
    """Return whether another of the same key comes first: one before it, or one under way.

    One under way may have come after it: an undo that is tried again, or one whose message was
    stored first though its number is higher.
    """
    other = request.alias()
    return exists().where(
        other.c.key == one.c.key,
        other.c.seq != one.c.seq,
        other.c.state.in_(OPEN),
        or_(other.c.seq < one.c.seq, other.c.state != "queued"),
    )


async def _write_alone(entry: Entry, transaction: Transaction) -> Told | None:
    row: Row[Any] | None = await transaction.one(
        _alone(entry).returning(request.c.cancelled, request.c.received_at)
    )
    if row is None:
        return None
    if isinstance(entry, Ended) and entry.messages:
        await transaction.execute(
            insert(outbox),
            [
                {**message, "body": message["body"].encode(), "created_at": entry.now}
                for message in entry.messages
            ],
        )
    return Told(row.cancelled, row.received_at)


def _alone(entry: Entry) -> Update:
    mine = update(request).where(
        request.c.workflow_id == entry.workflow_id,
        request.c.owner.is_not_distinct_from(None if isinstance(entry, Begun) else entry.owner),
        request.c.epoch == (entry.epoch - 1 if isinstance(entry, Begun) else entry.epoch),
        request.c.state.in_(OPEN),
    )
    match entry:
        case Begun():
            return mine.where(~request.c.cancelled, ~must_wait(request)).values(
                state="running",
                owner=entry.owner,
                epoch=entry.epoch,
                started_at=entry.now,
                plan=entry.plan,
                steps=entry.steps,
                journal=entry.journal,
            )
        case Recorded():
            return mine.values(state=entry.state, journal=entry.journal)
        case Ended():
            return mine.values(
                state=entry.state,
                owner=None,
                terminal=func.coalesce(request.c.terminal, literal(entry.terminal, Json)),
                journal=func.coalesce(literal(entry.journal, Json), request.c.journal),
                started_at=func.coalesce(request.c.started_at, entry.now),
                ended_at=func.coalesce(request.c.ended_at, entry.now),
            )
