"""Which consoles this ccfd serves, from ticket to close code."""

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from ccfd.console import ledger, recording, relay
from ccfd.console.closing import (
    BUSY,
    ENDED,
    GOING_AWAY,
    HOST_DOWN,
    HUNG_UP,
    IDLE,
    NO_DATABASE,
    NOT_RUNNING,
    TOO_MANY,
    Close,
    Closed,
)
from ccfd.console.ledger import Issued, Opened
from ccfd.console.recording import Recording
from ccfd.console.relay import Viewer
from ccfd.console.serial import Logs, Reader, SerialConsoles, Serials
from ccfd.console.tickets import Kind
from ccfd.console.wire import Wire, connect
from ccfd.errors import CcfdError
from ccfd.model.screen import LocalScreen, Screen
from ccfd.settings import Console
from ccfd.store.database import Database, DatabaseAway
from ccfd.store.rounds import rounds

log = structlog.get_logger()

LOOK_EVERY = 1.0
"""Seconds between two looks whether a console is to end."""
TOLD_WITHIN = 2.0
"""Seconds after which the database or the host knows why a screen hung up, if there is a reason."""


class Screens(Protocol):
    """Who knows where VMs' screens are."""

    async def find(self, host: str, vm: str) -> Screen:
        """Return where the screen is; raise `CcfdError`."""


class Counters(Protocol):
    """Who counts."""

    def console_sessions(self, number: int) -> None:
        """Note how many sessions are open."""

    def console_bytes(self, direction: str, number: int) -> None:
        """Count bytes that were relayed, `to_viewer` or `from_viewer`."""


@dataclass(eq=False, slots=True)
class Session:
    """A console that is open. `end` is set to have it closed."""

    opened: Opened
    viewer: Viewer
    since: float
    end: asyncio.Future[Close]
    source: Wire | Reader | None = None
    record: Callable[[bytes], None] | None = None
    counted: tuple[int, int] = (0, 0)
    moved_at: float = field(default=0.0)

    def moved(self) -> tuple[int, int]:
        """Return how many bytes went to the viewer, and came from it."""
        return (self.source.received if self.source is not None else 0, self.viewer.sent)

    def finish(self, why: Close) -> None:
        """Have it closed; the first reason counts."""
        if not self.end.done():
            self.end.set_result(why)


class Consoles:
    """The consoles of one ccfd. `tls` makes the context for screens of remote hosts."""

    def __init__(
        self,
        settings: Console,
        database: Database,
        screens: Screens,
        serials: Serials,
        logs: Logs,
        *,
        counters: Counters,
        tls: Callable[[], ssl.SSLContext],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._screens = screens
        self._serials = SerialConsoles(serials, logs)
        self._counters = counters
        self._tls = tls
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._left: set[str] = set()
        self._places = settings.sessions
        self._is_closing = False
        self._seen_at = 0.0

    @property
    def open(self) -> tuple[Session, ...]:
        """The sessions that are open here."""
        return tuple(self._sessions.values())

    async def issue(self, vm: str, kind: Kind, *, view_only: bool, to: str) -> Issued:
        """Give out a ticket for a VM's console. Raises `Refused`."""
        issued = await self._database.run(
            lambda transaction: ledger.issue(
                vm,
                kind,
                transaction,
                view_only=view_only,
                to=to,
                lifetime=self._settings.ticket_timeout,
            )
        )
        log.info("console ticket issued", audit=True, vm=vm, kind=kind, to=to, view_only=view_only)
        return issued

    async def revoke(self, name: str, by: str) -> None:
        """End an open console, whichever ccfd serves it. Raises `Refused`."""
        await self._database.run(lambda transaction: ledger.revoke(name, transaction))
        log.info("console revoked", audit=True, console=name, by=by)

    async def serve(self, viewer: Viewer, ticket: str, remote: str) -> None:
        """Relay the console that *ticket* opens to *viewer*, at *remote*, and say why it ends."""
        try:
            await viewer.close(await self._served(viewer, ticket, remote))
        finally:
            self._counters.console_sessions(len(self._sessions))

    async def _served(self, viewer: Viewer, ticket: str, remote: str) -> Close:
        if self._places == 0:
            return self._refused(TOO_MANY, remote)
        self._places -= 1
        try:
            opened = await self._opened(ticket, remote)
            return await self._session(viewer, opened, remote)
        except Closed as exc:
            return self._refused(exc.close, remote)
        finally:
            self._places += 1

    async def _opened(self, ticket: str, remote: str) -> Opened:
        if self._is_closing:
            raise Closed(GOING_AWAY)
        most = self._settings.sessions_per_vm
        try:
            return await self._database.run(
                lambda transaction: ledger.open_with(ticket, transaction, remote=remote, most=most)
            )
        except DatabaseAway as exc:
            raise Closed(NO_DATABASE) from exc

    def _refused(self, why: Close, remote: str) -> Close:
        log.warning("console refused", audit=True, remote=remote, code=why.code, reason=why.reason)
        return why

    async def _session(self, viewer: Viewer, opened: Opened, remote: str) -> Close:
        now = self._clock()
        end: asyncio.Future[Close] = asyncio.get_running_loop().create_future()
        session = Session(opened, viewer, now, end, moved_at=now)
        self._sessions[opened.id] = session
        self._counters.console_sessions(len(self._sessions))
        about: dict[str, Any] = {
            "audit": True,
            "console": opened.id,
            "vm": opened.vm,
            "slice": opened.slice,
            "kind": opened.kind,
            "view_only": opened.view_only,
            "by": opened.issued_to,
            "remote": remote,
        }
        if self._settings.record:
            about["recording"] = str(self._recording(session))
        log.info("console opened", **about)
        why = ENDED  # what a handler that is cancelled stands for
        try:
            if self._is_closing:
                session.finish(GOING_AWAY)
            why = await self._recorded(session)
        finally:
            del self._sessions[opened.id]
            self._left.add(opened.id)
            self._count(session)
            to_viewer, from_viewer = session.moved()
            log.info(
                "console closed",
                **about,
                code=why.code,
                reason=why.reason,
                to_viewer=to_viewer,
                from_viewer=from_viewer,
                seconds=round(self._clock() - session.since, 3),
            )
        await self._note_closed()
        return why

    def _recording(self, session: Session) -> Path:
        ending = recording.ENDINGS[session.opened.kind]
        return self._settings.recordings / f"{session.opened.id}.{ending}"

    async def _recorded(self, session: Session) -> Close:
        """Serve the session; keep it in a file where that is wanted."""
        if not self._settings.record:
            return await self._shown(session)
        opened = session.opened
        try:
            file = await Recording.begun(
                self._recording(session),
                opened.kind,
                {
                    "console": opened.id,
                    "vm": opened.vm,
                    "name": opened.name,
                    "slice": opened.slice,
                    "opened_by": opened.issued_to,
                },
                most=self._settings.recording_mib * 1024 * 1024,
                ended=session.finish,
            )
        except Closed as exc:
            return exc.close
        session.record = file.add
        async with asyncio.TaskGroup() as group:
            group.create_task(file.run())
            try:
                return await self._shown(session)
            finally:
                file.finish()

    async def _shown(self, session: Session) -> Close:
        await self._introduce(session)
        return await self._until_ended(session)

    async def _introduce(self, session: Session) -> None:
        """Tell our own page what it shows, and give it the ticket for the time after a loss."""
        if not session.viewer.wants_words:
            return
        opened = session.opened
        lifetime = self._settings.ticket_timeout
        try:
            again = await self._database.run(
                lambda transaction: ledger.follow(opened, transaction, lifetime=lifetime)
            )
        except DatabaseAway:
            again = None
        await session.viewer.introduce(
            {
                "console": opened.id,
                "vm": opened.vm,
                "name": opened.name,
                "slice": opened.slice,
                "view_only": opened.view_only,
                "recorded": session.record is not None,
                "again": again,
            }
        )

    async def _until_ended(self, session: Session) -> Close:
        """Relay until one of the sides ends, or `session.end` says so."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._relay(session))
            await asyncio.wait({work, session.end}, return_when=asyncio.FIRST_COMPLETED)
            if session.end.done():
                work.cancel()
                return session.end.result()
        why = work.result()
        return await self._why_hung_up(session) if why == HUNG_UP else why

    async def _relay(self, session: Session) -> Close:
        opened = session.opened
        relay_it = self._serial if opened.kind == "serial" else self._screen
        try:
            return await relay_it(session, opened)
        except Closed as exc:
            return exc.close
        except CcfdError as exc:
            log.warning("console not reached", vm=opened.vm, host=opened.host, why=exc.message)
            return {"invalid_state": NOT_RUNNING, "console_in_use": BUSY}.get(exc.code, HOST_DOWN)

    async def _screen(self, session: Session, opened: Opened) -> Close:
        wire = await connect(await self._screens.find(opened.host, opened.vm), self._tls)
        session.source = wire
        wire.record = session.record
        try:
            await relay.greet(session.viewer)
            return await relay.join(session.viewer, wire, view_only=opened.view_only)
        finally:
            wire.abort()

    async def _serial(self, session: Session, opened: Opened) -> Close:
        session.source = reader = Reader(session.record)
        return await self._serials.join(
            session.viewer, reader, opened.host, opened.vm, view_only=opened.view_only
        )

    async def _why_hung_up(self, session: Session) -> Close:
        """Say what became of the VM, if the database or the host tells it in a moment."""
        end = self._clock() + TOLD_WITHIN
        while self._clock() < end and not session.end.done():
            found = await self._endings([session.opened.id])
            if found:
                return found[session.opened.id]
            # The database follows when all VMs of the slice have stopped: the last one's grace
            # time later.
            if await self._is_off(session.opened):
                return NOT_RUNNING
            await asyncio.sleep(0.2)
        if session.end.done():
            return session.end.result()
        with suppress(DatabaseAway):
            async with self._database.read() as transaction:
                if not await ledger.is_up(session.opened.host, transaction):
                    return HOST_DOWN
        return HUNG_UP

    async def _is_off(self, opened: Opened) -> bool:
        """Tell whether the VM's host knows that it does not run."""
        try:
            screen = await self._screens.find(opened.host, opened.vm)
        except CcfdError as exc:
            return exc.code == "invalid_state"
        if isinstance(screen, LocalScreen):
            screen.connection.close()
        return False

    async def _endings(self, ids: list[str]) -> dict[str, Close]:
        try:
            async with self._database.read() as transaction:
                return dict(await ledger.endings(ids, transaction))
        except DatabaseAway:
            return {}

    async def _note_closed(self) -> None:
        """Have the database know which consoles are closed; what fails is done by a later round."""
        left = set(self._left)
        if not left:
            return
        try:
            await self._database.run(lambda transaction: ledger.closed(left, transaction))
        except DatabaseAway as exc:
            log.warning("end of consoles not noted yet", number=len(left), why=exc.message)
        else:
            self._left -= left

    async def run(self) -> None:
        """End what is to end, until cancelled; then end all."""
        try:
            await rounds(self._database, ledger.TOPIC, LOOK_EVERY, self._round)
        finally:
            self._is_closing = True
            for session in self._sessions.values():
                session.finish(GOING_AWAY)

    async def _round(self) -> None:
        now = self._clock()
        for session in self._sessions.values():
            if self._count(session):
                session.moved_at = now
            elif now - session.moved_at >= self._settings.idle_timeout:
                session.finish(IDLE)
        await self._note_closed()
        ids = list(self._sessions)
        if not ids:
            return
        for name, why in (await self._endings(ids)).items():
            if name in self._sessions:
                self._sessions[name].finish(why)
        if now - self._seen_at >= ledger.SEEN_EVERY:
            lifetime = self._settings.ticket_timeout
            await self._database.run(
                lambda transaction: ledger.seen(ids, transaction, lifetime=lifetime)
            )
            self._seen_at = now

    def _count(self, session: Session) -> bool:
        """Tell Prometheus what has moved; return whether anything has."""
        moved = session.moved()
        if moved == session.counted:
            return False
        self._counters.console_bytes("to_viewer", moved[0] - session.counted[0])
        self._counters.console_bytes("from_viewer", moved[1] - session.counted[1])
        session.counted = moved
        return True
