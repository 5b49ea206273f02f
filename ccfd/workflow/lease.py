"""Which daemons are alive, so that the work of a dead one is taken over and never done twice.

A daemon holds a session advisory lock and renews its row in `daemon`, on one connection. When its
process dies, PostgreSQL frees the lock at once; when it is frozen or cut off, its row grows old.
Another daemon then removes the row: from that moment the old one can record nothing, because
every record asks for the row's owner and epoch (`records`), and whoever finds a request without
a living owner takes it.

SQLite serves one daemon (`Database.take_hold`): there a new start is proof enough.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic
from uuid import uuid4

import structlog
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from ccfd.store.database import Database, DatabaseAway, Transaction
from ccfd.store.outbox import TOPIC as OUTBOX
from ccfd.store.tables import daemon

log = structlog.get_logger()

EVERY = 1.0
LEASE = 6.0
"""Seconds that a daemon may be silent; with the others' poll, its work waits no longer than 10."""
LOCKS = 0x63636664
"""The class of our advisory locks; the key is the daemon's id."""

CHANNEL = "ccfd"
"""Where daemons tell each other the topics that they wake (NOTIFY)."""

_TAKE = text("SELECT pg_try_advisory_lock(:locks, hashtext(:id))").bindparams(locks=LOCKS)
_SILENT = text(
    # A lock that is free means that the session died; but all sessions die with the server, so
    # only if the daemon has been heard since the server began.
    "SELECT id FROM daemon WHERE id <> :id AND ("
    " heartbeat_at < clock_timestamp() - make_interval(secs => :lease)"
    " OR (heartbeat_at > pg_postmaster_start_time()"
    "     AND pg_try_advisory_xact_lock(:locks, hashtext(id))))"
).bindparams(locks=LOCKS, lease=LEASE)

_HANG_UP = text(
    # Whatever a frozen daemon still holds by its session, others can have now.
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = :locks AND objid = (hashtext(:id)::bigint & 4294967295)::oid"
).bindparams(locks=LOCKS)
_LEAD = text("SELECT pg_try_advisory_lock(:locks, 0)").bindparams(locks=LOCKS)


class LeaseLost(Exception):
    """This daemon was silent for too long: others may do its work now."""


class Lease:
    """This daemon's sign of life. `id` is what requests that it carries out are owned by.

    `leads` tells whether, of all living daemons, this one publishes the outbox, so that results
    go out in order. `on_loss` is called when others may do its work, `on_change` when it has just
    registered or another daemon has died.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._until = 0.0
        self.id = ""
        self.leads = False
        self.on_loss: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def held(self) -> bool:
        """Tell whether nobody else can have taken this daemon's work yet."""
        return monotonic() < self._until

    async def run(self) -> None:
        """Register, and give signs of life until cancelled; anew after each loss."""
        while self._database.is_sqlite and not self.id:
            try:
                await self._database.run(self._register_alone)
            except DatabaseAway as exc:
                log.warning("cannot register", reason=exc.message)
                await asyncio.sleep(EVERY)
        while not self._database.is_sqlite:
            try:
                async with self._database.connection() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await self._live(connection)
            except DatabaseAway as exc:
                log.warning("no sign of life", reason=exc.message)
            except LeaseLost:
                self._until = 0.0
            if self.id and not self.held:
                log.error("lease lost: others may do this daemon's work", daemon=self.id)
                self.id = ""
                self.on_loss()
            await asyncio.sleep(EVERY)

    async def _register_alone(self, transaction: Transaction) -> None:
        """Register where no other daemon can be: whoever stands there is dead."""
        fresh = str(uuid4())
        await transaction.execute(delete(daemon))
        await transaction.execute(insert(daemon).values(id=fresh, heartbeat_at=transaction.now))
        transaction.after(lambda: self._begin_alone(fresh))

    def _begin_alone(self, fresh: str) -> None:
        self.id, self._until, self.leads = fresh, inf, True
        self.on_change()

    async def _live(self, connection: AsyncConnection) -> None:
        """Give signs of life on *connection* as long as it lasts."""
        try:
            await self._register(connection)
            while True:
                await asyncio.sleep(EVERY)
                # A database that hangs must not keep us from noticing that our time is over.
                async with asyncio.timeout(max(0.0, self._until - monotonic())):
                    await self._renew(connection)
                    await self._bury(connection)
        except asyncio.CancelledError:
            # An orderly end: nobody has to find out. A broken session can't say so; others see.
            with suppress(SQLAlchemyError):
                await connection.execute(delete(daemon).where(daemon.c.id == self.id))
            raise
        finally:
            self.leads = False
            # The locks are the session's: it must end, and not go back to the pool.
            await connection.invalidate()

    async def _register(self, connection: AsyncConnection) -> None:
        fresh = self.id or str(uuid4())
        await self._lock_and_listen(connection, fresh)
        if self.id:
            await self._renew(connection)
        else:
            began = monotonic()
            await connection.execute(insert(daemon).values(id=fresh, heartbeat_at=func.now()))
            self.id, self._until = fresh, began + LEASE
            log.info("registered", daemon=fresh)
        await self._bury(connection)
        self.on_change()

    async def _lock_and_listen(self, connection: AsyncConnection, name: str) -> None:
        if not (await connection.execute(_TAKE, {"id": name})).scalar():
            raise LeaseLost  # an old session of ours lives on
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        await driver.add_listener(CHANNEL, self._heard)

    def _heard(self, _connection: object, _pid: int, _channel: str, topics: str) -> None:
        for topic in topics.split("\n"):
            self._database.signals.wake(topic)

    async def _renew(self, connection: AsyncConnection) -> None:
        began = monotonic()
        renewed = await connection.execute(
            update(daemon).where(daemon.c.id == self.id).values(heartbeat_at=func.now())
        )
        if renewed.rowcount != 1:
            raise LeaseLost
        self._until = began + LEASE

    async def _bury(self, connection: AsyncConnection) -> None:
        """Remove the rows of daemons that gave no sign of life."""
        silent = (await connection.execute(_SILENT, {"id": self.id})).scalars().all()
        for name in silent:
            await connection.execute(delete(daemon).where(daemon.c.id == name))
            await connection.execute(_HANG_UP, {"id": name})
            log.warning("another daemon is dead", daemon=name)
        if silent:
            self.on_change()
        others = select(func.count()).select_from(daemon).where(daemon.c.id != self.id)
        self._database.has_peers = bool((await connection.execute(others)).scalar())
        if not self.leads:
            self.leads = bool((await connection.execute(_LEAD)).scalar())
            self._database.signals.wake(OUTBOX)
