"""Several daemons in one thread, on one database and one clock: who goes on, and how far?

Each life of a daemon has an event loop of its own, which is turned by hand: until it would wait,
or a few turns only. A loop that is not turned is a frozen daemon; one that never turns again was
killed, and nothing of it is cleaned up. Time passes only when a test says so.

The engine, its records and the tables are the real ones. Two things are twins:

- SQLite serves one daemon, so a lease by PostgreSQL's rules (`ccfd.workflow.lease`) is played on
  the same table: signs of life, burying the dead and the silent, noticing one's own loss.
- SQLite's statements are carried out at once, and not in a thread: the order of things is a
  test's choice. So a transaction is never cut; a life is, before and after it.
"""

import asyncio
import selectors
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal, Self, TypeVar

from sqlalchemy import delete, event, insert, or_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from ccfd import settings
from ccfd.store.database import Database, DatabaseAway, Transaction
from ccfd.store.tables import daemon
from ccfd.workflow.backlog import Backlog
from ccfd.workflow.engine import Engine
from ccfd.workflow.handler import Handlers
from ccfd.workflow.intake import REQUESTS, Intake
from ccfd.workflow.lease import LEASE, Lease, LeaseLost
from ccfd.workflow.records import Records
from ccfd.workflow.runner import Runner
from ccfd.workflow.steps import Effects
from tests.harness import Watched

T = TypeVar("T")

SIGN = 2.0
"""Seconds between signs of life; the real lease gives one each second."""
STEP_TIMEOUT = 5.0
RETRIES = 1
MOST_TURNS = 5_000


@dataclass
class Clock:
    """Everybody's time, in seconds."""

    now: float = 1000.0

    def utc(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)


class Idle(selectors.SelectSelector):
    """Waits for nothing. `wait` is how long the loop would have: 0, seconds, or for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: float | None = 0.0
        self.told: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[Any]:
        # The loop takes what is due within its clock's resolution as due now.
        self.wait = 0.0 if timeout is not None and timeout < 1e-9 else timeout
        self.told()
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop that is turned by hand, on a clock that stands still meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._idle = Idle()
        super().__init__(self._idle)
        self._idle.told = self._count
        self._left = 0
        self.wakes_at: float | None = None

    def time(self) -> float:
        return self._clock.now

    def turn(self, turns: int | None = None) -> None:
        """Go on until there is nothing to do now, or for so many *turns* at most."""
        self._left = MOST_TURNS if turns is None else turns
        self.run_forever()
        wait = self._idle.wait
        if turns is None:
            assert wait != 0, "a loop never comes to rest"
        self.wakes_at = None if wait is None else self._clock.now + wait

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0 or self._idle.wait != 0:
            self.stop()


class AtOnceCursor(sqlite3.Cursor):
    """Carries out a statement at once, yet asks to be awaited, as SQLAlchemy wants it."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        await_only(_nothing())
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        await_only(_nothing())
        return super().executemany(sql, parameters)

    async def _async_soft_close(self) -> None:
        """Keep the rows: there is nobody to wait for."""


class AtOnce(sqlite3.Connection):
    """A connection to SQLite without a thread behind it."""

    def cursor(self, factory: Any = AtOnceCursor) -> Any:
        return super().cursor(factory)

    def terminate(self) -> None:
        self.close()


async def _nothing() -> None:
    """Be done."""


class Store:
    """The database that all lives share, in memory. `look` reads it from outside."""

    def __init__(self, empty: Path, own: tuple[str, ...]) -> None:
        """Take a copy of the file *empty*, with the test's *own* tables (their DDL)."""
        name = f"file:/lives-{id(self)}?vfs=memdb"
        self._anchor = sqlite3.connect(name, uri=True, isolation_level=None)
        self._anchor.row_factory = sqlite3.Row
        source = sqlite3.connect(empty)
        # Not a backup: a database in memory cannot have a write-ahead log.
        self._anchor.executescript("".join(source.iterdump()))
        source.close()
        for ddl in own:
            self._anchor.execute(ddl)
        self.config = settings.Database(url=f"sqlite+aiosqlite:///{name}&uri=true")
        self.engine = Database(self.config).engine

        @event.listens_for(self.engine.sync_engine, "do_connect")
        def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> sqlite3.Connection:
            return sqlite3.connect(*args, **options, factory=AtOnce)

    def look(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._anchor.execute(query, values).fetchall()

    def requests(self, condition: str, *values: Any) -> list[sqlite3.Row]:
        """Return requests in their order, each with what its workflow says, if it is one."""
        return self.look(
            "SELECT * FROM request"
            " LEFT JOIN (SELECT seq, owner, epoch, journal FROM workflow) USING (seq)"
            f" WHERE {condition} ORDER BY seq",
            *values,
        )

    def empty(self, *names: str) -> None:
        for name in names:
            self._anchor.execute(f"DELETE FROM {name}")

    def close(self) -> None:
        self.engine.sync_engine.dispose()
        self._anchor.close()


class Link(Database):
    """A life's way to the database. It may be broken: before a commit, or after it.

    `cuts` counts how often somebody was told so; whoever was does not know what is recorded.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store.config, clock.utc)
        self.engine = store.engine
        self.broken: Literal["no", "before", "after"] = "no"
        self.cuts = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        self._cut("before")
        async with super().connection() as connection:
            yield connection
        self._cut("after")

    def _cut(self, moment: str) -> None:
        if self.broken == moment:
            self.cuts += 1
            raise DatabaseAway("broken by the test")


class LeaseTwin(Lease):
    """A lease among several daemons, on SQLite."""

    def __init__(self, link: Link, name: str, clock: Clock, dead: Callable[[], list[str]]) -> None:
        super().__init__(link)
        self._link = link
        self._name = name
        self._clock = clock
        self._dead = dead
        self._ids = 0

    @property
    def held(self) -> bool:
        return bool(self.id) and self._clock.now < self._until

    async def run(self) -> None:
        while True:
            try:
                await self._give_signs()
            except DatabaseAway:
                pass
            except LeaseLost:
                self._until = 0.0
            if self.id and not self.held:
                self.id = ""
                self.on_loss()
            await asyncio.sleep(SIGN)

    async def _give_signs(self) -> None:
        try:
            while True:
                await self._link.run(self._sign)
                await asyncio.sleep(SIGN)
        except asyncio.CancelledError:
            mine = delete(daemon).where(daemon.c.id == self.id)
            with suppress(DatabaseAway):
                await self._link.run(lambda transaction: transaction.execute(mine))
            raise

    async def _sign(self, transaction: Transaction) -> None:
        """Give a sign of life, and bury those who give none."""
        name, until = self.id, self._clock.now + LEASE
        if name:
            mine = update(daemon).where(daemon.c.id == name)
            renewed = await transaction.execute(mine.values(heartbeat_at=transaction.now))
            if renewed.rowcount != 1:
                raise LeaseLost
        else:
            self._ids += 1
            name = f"{self._name}.{self._ids}"
            row = {"id": name, "heartbeat_at": transaction.now}
            await transaction.execute(insert(daemon).values(**row))
        silent = transaction.now - timedelta(seconds=LEASE)
        buried = await transaction.execute(
            delete(daemon).where(
                daemon.c.id != name,
                or_(daemon.c.heartbeat_at < silent, daemon.c.id.in_(self._dead())),
            )
        )
        is_new = name != self.id
        transaction.after(lambda: self._signed(name, until))
        if buried.rowcount or is_new:
            transaction.after(self.on_change)

    def _signed(self, name: str, until: float) -> None:
        self.id, self._until = name, until


class Life:
    """One life of a daemon, from its start to its end."""

    def __init__(
        self,
        name: str,
        store: Store,
        clock: Clock,
        *,
        handlers: Handlers,
        effects: Callable[["Life"], Effects],
        dead: Callable[[], list[str]],
        concurrency: int,
    ) -> None:
        self.name = name
        self.clock = clock
        self.loop = Loop(clock)
        self.link = Link(store, clock)
        self.lease = LeaseTwin(self.link, name, clock, dead)
        self.frozen = False
        self.ended = False
        self.thaws = 0
        self.troubles: list[str] = []
        intake = Intake(handlers, lambda _kind, _code: None)
        mine = effects(self)
        records = Records(self.link, handlers, intake, lambda *_: None, concurrency=concurrency)
        runner = Runner(
            mine,
            records,
            Watched(),
            held=lambda: self.lease.held,
            step_timeout=STEP_TIMEOUT,
            retries=RETRIES,
            clock=lambda: clock.utc().timestamp(),
            random=Random(1),
        )
        backlog = Backlog(self.link, handlers, mine)
        self.engine = Engine(
            self.link, backlog, records, runner, self.lease, concurrency=concurrency
        )
        self.loop.set_exception_handler(lambda _loop, told: self.troubles.append(repr(told)))
        self._main = self.loop.create_task(self._live())

    @property
    def doubts(self) -> int:
        """Count what may have kept this life from knowing what is recorded."""
        return self.thaws + self.link.cuts

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            lease = group.create_task(self.lease.run())
            await self.engine.run()
            lease.cancel()

    def turn(self, turns: int | None = None) -> None:
        """Go on; notice the end of an orderly life."""
        self.loop.turn(turns)
        if self._main.done():
            if not self._main.cancelled() and self._main.exception() is not None:
                self.troubles.append(repr(self._main.exception()))
            self._close()

    def kill(self) -> None:
        """End at once: nothing more reaches the database, and nothing the hosts."""
        self.link.broken = "before"
        self._main.cancel()
        self.loop.turn()
        assert self._main.done(), "an engine does not end with its task"
        self._close()

    def _close(self) -> None:
        self.ended = True
        self.loop.close()

    def recover(self) -> None:
        """End whatever this life suffers from."""
        self.link.broken = "no"
        self.thaws += self.frozen
        self.frozen = False


@contextmanager
def unwatched(_life: Life) -> Iterator[None]:
    """Let a life do what it does."""
    yield


@dataclass
class Cluster:
    """The lives of daemons on one database, and the person who asks them."""

    store: Store
    handlers: Handlers
    effects: Callable[[Life], Effects]
    watched: Callable[[Life], AbstractContextManager[None]]
    """Wraps whatever a life does."""
    concurrency: int = 1
    """Workflows that each daemon carries out at once."""
    clock: Clock = field(default_factory=Clock)
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._person = Loop(self.clock)
        self.link = Link(self.store, self.clock)

    @property
    def living(self) -> list[Life]:
        return [life for life in self.lives if not life.ended]

    @property
    def awake(self) -> list[Life]:
        return [life for life in self.living if not life.frozen]

    @property
    def sound(self) -> list[Life]:
        return [life for life in self.awake if life.link.broken == "no"]

    def start(self) -> Life:
        """Begin a daemon's life."""
        name = f"d{len(self.lives)}"
        life = Life(
            name,
            self.store,
            self.clock,
            handlers=self.handlers,
            effects=self.effects,
            dead=self._dead,
            concurrency=self.concurrency,
        )
        self.lives.append(life)
        return life

    def _dead(self) -> list[str]:
        """List the ids of which everybody can see that nobody stands behind them."""
        return [life.lease.id for life in self.lives if life.ended]

    def go_on(self, turns: int | None = None) -> None:
        """Let everybody who is awake go on until all wait, or for so many turns each."""
        for life in self.awake:
            with self.watched(life):
                life.turn(turns)

    def elapse(self, seconds: float) -> None:
        """Let time pass, and everybody who is awake do what is due, when it is due."""
        until = self.clock.now + seconds
        while True:
            self.go_on()
            due = [life.loop.wakes_at for life in self.awake if life.loop.wakes_at is not None]
            if not due or min(due) > until:
                break
            self.clock.now = min(due)
        self.clock.now = until

    def ask(self, what: Coroutine[Any, Any, T]) -> T:
        """Have a person's request carried out, and the living told of it."""
        task = self._person.create_task(what)
        self._person.turn()
        assert task.done(), "a person waits"
        for life in self.living:
            life.link.signals.wake(REQUESTS)
        return task.result()

    def close(self) -> None:
        for life in self.living:
            life.kill()
        self._person.close()
