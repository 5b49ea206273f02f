"""How a transaction is run: on which database, with which guarantees, how often again."""

import asyncio
import fcntl
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import Connection, CursorResult, Row
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncTransaction,
    create_async_engine,
)
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Executable

from ccfd import settings
from ccfd.errors import CcfdError, Refused, Transient

T = TypeVar("T")
Clock = Callable[[], datetime]

ATTEMPTS = 12
# Serialization failure, deadlock (PostgreSQL manual, appendix A) and constraint violations: two
# transactions chose the same thing; the loser chooses again from a fresh snapshot.
TRY_AGAIN = frozenset({"40001", "40P01", "23505", "23514", "23503", "23P01"})
COMMAND_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
DOUBT = 3.0
"""Seconds for which a database that could not write is not believed, whatever it reads."""

# PostgreSQL manual, appendix A. 08: connection; 57P: shutdown, crash, starting up; 53: no
# resources; 58: system; 25006: read-only, as after a failover; 28, 3D: no such user, no such
# database, as while a server is being set up again; XX: broken files, or "tuple concurrently
# updated" and the like.
AWAY = ("08", "57P", "53", "58", "25006", "28", "3D", "XX")
WRITES_NOTHING = ("53100", "25006", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR_WRITE")
# https://sqlite.org/rescode.html; BUSY comes after the busy timeout, as from a backup that hangs.
SQLITE_AWAY = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_BUSY")


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


# Heard by the other daemons (`workflow.lease`) once the transaction is committed.
_TELL = text("SELECT pg_notify('ccfd', :topics)")


class DatabaseAway(Transient):
    """The database cannot be reached now; nothing of the transaction remains."""

    def __init__(self, reason: object) -> None:
        super().__init__("internal", f"the database cannot be reached: {reason}")


class RaceLost(Exception):
    """A statement lost a race: its transaction is worth another try."""


class Transaction:
    """One transaction, which begins with its first statement. `now` is its one moment.

    `first` is awaited just before that statement, and may have statements of its own. It ends with
    its `async with` block.
    """

    def __init__(
        self, begin: Callable[[AsyncExitStack], Awaitable[AsyncConnection]], now: datetime
    ) -> None:
        self._begin = begin
        self._connection: AsyncConnection | None = None
        self._end: AsyncExitStack | None = None
        self._unmarked: list[Savepoint] = []
        self.now = now
        self.first: Callable[[], Awaitable[None]] | None = None
        self.wakes: set[str] = set()
        self.afterwards: list[Callable[[], None]] = []

    @property
    def begun(self) -> bool:
        """Tell whether there was a statement."""
        return self._connection is not None

    async def connection(self) -> AsyncConnection:
        """Return the connection for a statement; begin if this is the first."""
        if self._connection is None:
            self._end = AsyncExitStack()
            self._connection = await self._begin(self._end)
            if self.first is not None:
                await self.first()
        while self._unmarked:
            await self._unmarked.pop(0).mark(self._connection)
        return self._connection

    async def __aenter__(self) -> "Transaction":
        """Begin nothing yet."""
        return self

    async def __aexit__(self, *raised: Any) -> None:
        """Commit; roll back if the block raised."""
        if self._end is not None:
            await self._end.__aexit__(*raised)

    async def execute(
        self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Execute *statement*, once or for each of *rows*."""
        return await (await self.connection()).execute(statement, rows)

    async def one(self, statement: Executable) -> Row[Any] | None:
        """Return the first row, or None."""
        return (await self.execute(statement)).first()

    async def all(self, statement: Executable) -> Sequence[Row[Any]]:
        """Return every row."""
        return (await self.execute(statement)).all()

    async def scalar(self, statement: Executable) -> Any:
        """Return the first column of the first row, or None."""
        return (await self.execute(statement)).scalar()

    def savepoint(self) -> "Savepoint":
        """Undo what the block did when it raises; what came before stays."""
        return Savepoint(self._unmarked)

    def wake(self, topic: str) -> None:
        """Wake, once this is committed, whoever waits for *topic*."""
        self.wakes.add(topic)

    def after(self, act: Callable[[], None]) -> None:
        """Do *act* (count something, say) once this is committed, and not if it is not."""
        self.afterwards.append(act)


class Savepoint:
    """A block of a transaction, marked in it with the block's first statement."""

    def __init__(self, unmarked: "list[Savepoint]") -> None:
        self._unmarked = unmarked
        self._nested: AsyncTransaction | None = None

    async def mark(self, connection: AsyncConnection) -> None:
        """Mark where the block begins."""
        nested = connection.begin_nested()
        await nested.__aenter__()
        self._nested = nested

    async def __aenter__(self) -> None:
        """Begin the block."""
        self._unmarked.append(self)

    async def __aexit__(self, *raised: Any) -> None:
        """End it."""
        if self._nested is not None:
            await self._nested.__aexit__(*raised)
        elif self in self._unmarked:
            self._unmarked.remove(self)


class Signals:
    """Who waits for a topic inside this process; a wake-up is a hint, not the truth."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever *topic* is woken."""
        told = asyncio.Event()
        self._waiting[topic].add(told)
        try:
            yield told
        finally:
            self._waiting[topic].discard(told)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def wake(self, topic: str) -> None:
        """Wake everyone who listens to *topic*."""
        for told in self._waiting.get(topic, ()):
            told.set()


async def told_or_later(told: asyncio.Event, seconds: float) -> None:
    """Wait until *told* is set, *seconds* at most, and clear it."""
    later = asyncio.get_running_loop().call_later(seconds, told.set)
    try:
        await told.wait()
    finally:
        later.cancel()
    told.clear()


class Database:
    """The database of one daemon. `problem` says why it cannot be used; empty while it can."""

    def __init__(self, config: settings.Database, clock: Clock = utc_now) -> None:
        self.clock = clock
        self.signals = Signals()
        self.problem = ""
        self._doubted_until = 0.0
        self.has_peers = False
        self._url = make_url(config.url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._lock: int | None = None
        self._lines: list[tuple[AsyncConnection, Any]] = []
        if self.is_sqlite:
            self.engine = self._sqlite()
            return
        self.engine = self._postgresql(
            pool_size=config.pool, max_overflow=0, pool_timeout=CONNECT_TIMEOUT
        )
        # Lines are kept: out of a small pool they would leave nothing for transactions. Their
        # statements find rows by key; a plan made while a table was empty would read all of it.
        self._direct = self._postgresql({"enable_seqscan": "off"}, poolclass=NullPool)

    @property
    def is_up(self) -> bool:
        """Tell whether the database answered last time, and did what it was asked."""
        return not self.problem

    def _answered(self) -> None:
        if self.problem and time.monotonic() >= self._doubted_until:
            self.problem = ""

    def _away(self, exc: BaseException) -> DatabaseAway:
        """Note that the database cannot be used, and return the error that says so."""
        said = getattr(exc, "orig", exc)
        self.problem = str(said).partition("\n")[0] or type(said).__name__
        # Of a full disk one can read: what is read proves nothing for a while.
        if code_of(exc).startswith(WRITES_NOTHING):
            self._doubted_until = time.monotonic() + DOUBT
        return DatabaseAway(self.problem)

    def _postgresql(
        self, session: Mapping[str, str] = MappingProxyType({}), **pool: Any
    ) -> AsyncEngine:
        return create_async_engine(
            self._url,
            connect_args={
                "command_timeout": COMMAND_TIMEOUT,
                "timeout": CONNECT_TIMEOUT,
                # A costly plan (and one with a scan that is off is costly) would be compiled for
                # seconds, to run for microseconds. By a bitmap, the first of a queue would be
                # found by sorting all of it, where statistics say that it is short.
                "server_settings": {"jit": "off", "enable_bitmapscan": "off", **session},
            },
            **pool,
        )

    def _sqlite(self) -> AsyncEngine:
        engine = create_async_engine(self._url, connect_args={"timeout": COMMAND_TIMEOUT})

        @event.listens_for(engine.sync_engine, "connect")
        def durable(dbapi_connection: Any, _record: Any) -> None:
            # The driver opens transactions late and never for SELECT: ccfd says BEGIN itself.
            dbapi_connection.isolation_level = None
            cursor = dbapi_connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            # A write lock taken late can fail with "database is locked" at once; taken at the
            # start it waits its turn.
            reads = connection.get_execution_options().get("ccfd_reads", False)
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

        return engine

    @property
    def file(self) -> Path | None:
        """Where the embedded database is, if it is one."""
        path = self._url.database
        return Path(path) if self.is_sqlite and path and path != ":memory:" else None

    def take_hold(self) -> None:
        """Keep a second daemon away from the same SQLite file; raise `Refused` if one runs."""
        path = self.file
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Refused(
                "invalid_state",
                f"another ccfd uses {path}: SQLite serves one; stop it, or use PostgreSQL",
            ) from exc

    async def close(self) -> None:
        """Close every connection."""
        while self._lines:
            await self._lines.pop()[0].close()
        await self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run *work* in one transaction and commit; again, from the start, when it lost a race.

        Raises `DatabaseAway` when the database cannot be reached, and what *work* raises.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with Transaction(self._begin_writing, self.clock()) as transaction:
                    result = await work(transaction)
                    if self.has_peers and transaction.wakes:
                        await transaction.execute(_TELL, [{"topics": "\n".join(transaction.wakes)}])
            except (IntegrityError, RaceLost):
                if attempt == ATTEMPTS - 1:
                    raise
            except DBAPIError as exc:
                if getattr(exc.orig, "sqlstate", None) not in TRY_AGAIN or attempt == ATTEMPTS - 1:
                    raise
            else:
                for act in transaction.afterwards:
                    act()
                for topic in transaction.wakes:
                    self.signals.wake(topic)
                return result
            # Not a secret: spread the losers so that they do not meet again.
            await asyncio.sleep(random.random() * 0.005 * 2**attempt)  # noqa: S311
        raise AssertionError("unreachable")

    def read(self) -> Transaction:
        """Give a transaction for reading; what it writes is rolled back."""
        return Transaction(self._begin_reading, self.clock())

    async def _begin_writing(self, end: AsyncExitStack) -> AsyncConnection:
        connection = await end.enter_async_context(self.connection())
        await end.enter_async_context(connection.begin())
        return connection

    async def _begin_reading(self, end: AsyncExitStack) -> AsyncConnection:
        connection = await end.enter_async_context(self.connection())
        if self.is_sqlite:
            await connection.execution_options(ccfd_reads=True)
        begun = await end.enter_async_context(connection.begin())
        end.push_async_callback(begun.rollback)
        return connection

    async def fetch_many(
        self, statement: str, arguments: Sequence[Sequence[Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Execute a PostgreSQL statement with each of *arguments*; return all its rows.

        All or nothing, in one round trip: a transaction of their own. For what is written many
        times a second: asyncpg alone, on a connection that is kept.
        Raises `DatabaseAway`, and `RaceLost` for what `run` would try again.
        """
        line, driver = self._lines.pop() if self._lines else await self._open_line()
        try:
            rows: Sequence[Mapping[str, Any]]
            if len(arguments) == 1:
                rows = await driver.fetch(statement, *arguments[0])
            else:
                rows = await driver.fetchmany(statement, arguments)
        except BaseException as exc:
            # What became of it is not known, or nobody waits for it any more.
            await asyncio.shield(_hang_up(line))
            if isinstance(exc, asyncpg.PostgresError) and exc.sqlstate in TRY_AGAIN:
                raise RaceLost(str(exc)) from exc
            if is_away(exc):
                raise self._away(exc) from exc
            raise
        self._lines.append((line, driver))
        return rows

    async def _open_line(self) -> tuple[AsyncConnection, Any]:
        """Open a connection to keep, with asyncpg's part of it: to ask for that takes long."""
        try:
            line = await self._direct.connect()
            return line, (await line.get_raw_connection()).driver_connection
        except Exception as exc:
            if is_away(exc):
                raise self._away(exc) from exc
            raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection; raise `DatabaseAway` when there is none, or when it breaks."""
        try:
            async with self.engine.connect() as connection:
                self._answered()
                yield connection
        except Exception as exc:
            if is_away(exc):
                raise self._away(exc) from exc
            raise


def code_of(exc: BaseException) -> str:
    """Return PostgreSQL's or SQLite's code for *exc*; "" where it has none."""
    said = exc.orig if isinstance(exc, DBAPIError) else exc
    return getattr(said, "sqlstate", None) or getattr(said, "sqlite_errorname", None) or ""


def is_away(exc: BaseException) -> bool:
    """Tell whether *exc* means that the server went away, and not that a statement was wrong."""
    if isinstance(exc, CcfdError):
        return False
    if code_of(exc).startswith((*AWAY, *SQLITE_AWAY)):
        return True
    said = exc.orig if isinstance(exc, DBAPIError) else exc
    if isinstance(said, OSError | TimeoutError | PoolTimeout | asyncpg.InterfaceError):
        return True
    return isinstance(exc, DBAPIError) and exc.connection_invalidated


async def _hang_up(line: AsyncConnection) -> None:
    with suppress(Exception):
        await line.invalidate()
    await line.close()
