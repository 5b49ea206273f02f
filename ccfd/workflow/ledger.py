"""How a workflow is written: begun, recorded, ended; what waits together shares a commit.

Each write asks for the workflow's owner and epoch, so that a daemon that lost its lease can write
nothing (docs/adr/0007). On PostgreSQL an entry is one statement, which goes out with those of
other workflows where its transaction has no statements of its own (docs/adr/0010), else as the
last of them. SQLite, which serves one daemon, takes a statement for each table.
"""
# ruff: noqa: S608 - constants

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Update,
    and_,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row

from ccfd.store.bulk import encoded
from ccfd.store.database import Database, RaceLost, Transaction
from ccfd.store.outbox import DEFAULT_EXCHANGE, JSON, RESULTS, Message
from ccfd.store.sharing import Sharing
from ccfd.store.tables import Json, outbox, request, workflow

OPEN = ("queued", "running", "undoing")

MOST = 64
"""Entries that share a commit at most."""
LANES = 2
"""Commits of a kind under way at once: while one is written, the next fills."""


class Begun(NamedTuple):
    """A waiting request has become a workflow of *owner*, in its first epoch.

    Not one that has been cancelled, nor one that has to wait for another of its key.
    """

    seq: int
    key: str
    owner: str
    plan: dict[str, Any]
    steps: dict[str, Any]
    now: datetime


class Recorded(NamedTuple):
    """A workflow of *owner* has come as far as *line* of its journal says."""

    seq: int
    owner: str
    epoch: int
    line: str


class Undoing(NamedTuple):
    """A workflow of *owner* has turned back, and come as far as *line* of its journal says."""

    seq: int
    owner: str
    epoch: int
    line: str


class Ended(NamedTuple):
    """A workflow of *owner* has ended, with a *message* for the outbox.

    A result that it has already stays.
    """

    seq: int
    owner: str
    epoch: int
    line: str
    state: str
    terminal: dict[str, Any] | None
    now: datetime
    message: Message | None


class Answered(NamedTuple):
    """A waiting request has ended without becoming a workflow."""

    seq: int
    state: str
    terminal: dict[str, Any]
    now: datetime
    message: Message | None


Entry = Begun | Recorded | Undoing | Ended | Answered


class Ledger:
    """Writes entries of up to *concurrency* workflows at once.

    Each tells whether its request has been cancelled, or None when it is not its daemon's to
    write any more.
    """

    def __init__(self, database: Database, concurrency: int) -> None:
        self._database = database
        # Half of them at most: were all to wait for one commit, Python would rest while
        # PostgreSQL works, and PostgreSQL while Python does.
        most = min(MOST, max(1, concurrency // 2))
        self._shared = {
            kind: Sharing[Any, bool | None](
                partial(self._together, kind), most=most, lanes=LANES, alone=RaceLost
            )
            for kind in _STATEMENTS
        }

    async def write(self, entry: Entry, transaction: Transaction | None = None) -> bool | None:
        """Write *entry*, within *transaction* where that has begun (or there is no other way)."""
        if self._database.is_sqlite:
            if transaction is None:
                return await self._database.run(partial(_write_by_table, entry))
            return await _write_by_table(entry, transaction)
        if transaction is None or not transaction.begun:
            return await self._shared[type(entry)](entry)
        connection = await transaction.connection()
        rows = await connection.exec_driver_sql(_STATEMENTS[type(entry)], _values(entry))
        row = rows.first()
        return None if row is None else row.cancelled

    async def _together(self, kind: type[Entry], entries: Sequence[Entry]) -> list[bool | None]:
        rows = await self._database.fetch_many(_STATEMENTS[kind], list(map(_values, entries)))
        told = {row["seq"]: row["cancelled"] for row in rows}
        return [told.get(entry.seq) for entry in entries]


def _values(entry: Entry) -> tuple[Any, ...]:
    """Return what the statement for *entry* takes: its fields, and those of its message."""
    if isinstance(entry, Ended | Answered):
        *own, message = entry
        return tuple(map(encoded, (*own, *(message or _NO_MESSAGE))))
    return tuple(map(encoded, entry))


_NO_MESSAGE = (None,) * len(Message._fields)


def _say(*, now: int, message: int) -> str:
    """Return the rest of a statement that says what ended, if there is something to say.

    The moment is parameter number *now*; from number *message* on come a message's fields.
    """
    identity, routing_key, correlation_id, headers, body, about, reply_to = (
        f"${message + n}" for n in range(len(Message._fields))
    )
    return f""", said AS (
    INSERT INTO outbox (message_id, exchange, routing_key, type, correlation_id, content_type,
                        headers, body, slice, created_at)
    SELECT {identity}, way.exchange, way.routing_key, {routing_key}, {correlation_id}, '{JSON}',
           {headers}::json, {body}::bytea, {about}, ${now}
    FROM ended CROSS JOIN (VALUES ('{RESULTS}', {routing_key}::text),
                                  ('{DEFAULT_EXCHANGE}', {reply_to})) AS way(exchange, routing_key)
    WHERE way.routing_key IS NOT NULL
)
SELECT seq, cancelled FROM ended"""


# Whether another of its key comes first (`must_wait`) is asked by the key itself: of `r.key`
# PostgreSQL could make a join, and go through all that are unfinished for each that begins.
_STATEMENTS: dict[type[Entry], str] = {
    Begun: """
        WITH begun AS (
            UPDATE request AS r
            SET state = 'running', started_at = $6, plan = $4, steps = $5
            WHERE r.seq = $1 AND r.state = 'queued' AND NOT r.cancelled
                AND NOT EXISTS (
                    SELECT FROM request AS o WHERE o.key = $2 AND o.seq < $1
                        AND o.unfinished AND o.state IN ('queued', 'running', 'undoing'))
                AND NOT EXISTS (SELECT FROM workflow AS w WHERE w.key = $2)
            RETURNING r.seq, r.cancelled
        ), made AS (
            INSERT INTO workflow (seq, key, owner, epoch, journal)
            SELECT seq, $2, $3, 1, '' FROM begun
        )
        SELECT seq, cancelled FROM begun""",
    Recorded: """
        UPDATE workflow SET journal = journal || $4
        WHERE seq = $1 AND owner = $2 AND epoch = $3
        RETURNING seq, cancelled""",
    Undoing: """
        WITH recorded AS (
            UPDATE workflow SET journal = journal || $4
            WHERE seq = $1 AND owner = $2 AND epoch = $3
            RETURNING seq
        )
        UPDATE request AS r SET state = 'undoing' FROM recorded WHERE r.seq = recorded.seq
        RETURNING r.seq, r.cancelled""",
    Ended: """
        WITH recorded AS (
            UPDATE workflow SET journal = journal || $4, owner = NULL, key = NULL
            WHERE seq = $1 AND owner = $2 AND epoch = $3
            RETURNING seq
        ), ended AS (
            UPDATE request AS r
            SET state = $5, unfinished = ($5::varchar = 'stuck'),
                terminal = coalesce(r.terminal, $6), ended_at = coalesce(r.ended_at, $7)
            FROM recorded WHERE r.seq = recorded.seq
            RETURNING r.seq, r.cancelled
        )"""
    + _say(now=7, message=8),
    Answered: """
        WITH ended AS (
            UPDATE request AS r
            SET state = $2, unfinished = false, terminal = $3, started_at = $4, ended_at = $4
            WHERE r.seq = $1 AND r.state = 'queued'
            RETURNING r.seq, r.cancelled
        )"""
    + _say(now=4, message=5),
}


def is_open(one: FromClause) -> ColumnElement[bool]:
    """Return whether a request waits or is under way."""
    return and_(one.c.unfinished, one.c.state.in_(OPEN))


def must_wait(one: FromClause) -> ColumnElement[bool]:
    """Return whether a queued request has to let another of its key go first.

    One that waits before it, or one under way; which may have come after it: an undo that is tried
    again, or one whose message was stored first though its number is higher.

    Two look-ups in an index, however many wait and whatever statistics say: "not exists" would be
    a join, for which PostgreSQL goes through all that wait where it believes that few do.
    """
    other = request.alias()
    mine = select(other.c.seq).where(other.c.key == one.c.key)
    first = mine.where(is_open(other)).order_by(other.c.seq).limit(1).scalar_subquery()
    running = select(workflow.c.seq).where(workflow.c.key == one.c.key)
    return or_(first < one.c.seq, running.scalar_subquery().is_not(None))


async def _write_by_table(entry: Entry, transaction: Transaction) -> bool | None:
    """Write *entry* with a statement for each table, in the order of `_STATEMENTS`."""
    row: Row[Any] | None = None
    if isinstance(entry, Recorded | Undoing | Ended):
        row = await transaction.one(_add_line(entry).returning(workflow.c.cancelled))
        if row is None:
            return None
    if not isinstance(entry, Recorded):
        row = await transaction.one(_change(entry).returning(request.c.cancelled))
    if isinstance(entry, Begun) and row is not None:
        made = insert(workflow).values(
            seq=entry.seq, key=entry.key, owner=entry.owner, epoch=1, journal=""
        )
        await transaction.execute(made)
    if isinstance(entry, Ended | Answered) and entry.message is not None and row is not None:
        await transaction.execute(insert(outbox), entry.message.rows(entry.now))
    return None if row is None else row.cancelled


def _add_line(entry: Recorded | Undoing | Ended) -> Update:
    mine = update(workflow).where(
        workflow.c.seq == entry.seq,
        workflow.c.owner == entry.owner,
        workflow.c.epoch == entry.epoch,
    )
    values: dict[str, Any] = {"journal": workflow.c.journal + entry.line}
    return mine.values(
        values | {"owner": None, "key": None} if isinstance(entry, Ended) else values
    )


def _change(entry: Begun | Undoing | Ended | Answered) -> Update:
    mine = update(request).where(request.c.seq == entry.seq)
    waiting = mine.where(request.c.state == "queued")
    match entry:
        case Begun():
            return waiting.where(~request.c.cancelled, ~must_wait(request)).values(
                state="running", started_at=entry.now, plan=entry.plan, steps=entry.steps
            )
        case Undoing():
            return mine.values(state="undoing")
        case Ended():
            return mine.values(
                state=entry.state,
                unfinished=entry.state == "stuck",
                terminal=func.coalesce(request.c.terminal, literal(entry.terminal, Json)),
                ended_at=func.coalesce(request.c.ended_at, entry.now),
            )
        case Answered():
            return waiting.values(
                state=entry.state,
                unfinished=False,
                terminal=entry.terminal,
                started_at=entry.now,
                ended_at=entry.now,
            )
