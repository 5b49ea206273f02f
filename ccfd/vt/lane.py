"""How does ccfd talk to one host's libvirt without one host's trouble becoming another's?

A lane is one connection, a bound on calls at once, a deadline for each, and a memory of those
that did not come back: what a frozen host does when it wakes must not land after an undo
(docs/adr/0005).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from ccfd.errors import CcfdError, Transient
from ccfd.vt import api, faults, threads
from ccfd.vt.breaker import Breaker

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

CONNECT_WITHIN = 10.0
"""Seconds that opening a connection may take."""
PROBE_WITHIN = 2.0
"""Seconds that a probe may take."""
GRACE = 1.0
"""Seconds of quiet after a connection that was lost under a running call.

What that call asked for may lie unread in libvirtd's socket. libvirtd reads sockets in turn and
starts jobs in the order it read them, so by then a new connection's calls come after it.
"""
MOST_LATE = 32
"""Calls that may be out at once beyond their deadline; more would only pile up threads."""


class AbandonedError(Exception):
    """Nobody waits for this call any more: it stops before its next effect."""


class Session:
    """What a blocking function in a lane works with; it never leaves the function's thread."""

    def __init__(self, host: str, connection: api.Connection) -> None:
        self.host = host
        self.connection = connection
        self._abandoned = Event()

    def check(self) -> None:
        """Come before each effect: raise `AbandonedError` once the caller's deadline is over."""
        if self._abandoned.is_set():
            raise AbandonedError

    def abandon(self) -> None:
        """Let the function stop at its next `check`."""
        self._abandoned.set()


Work = Callable[Concatenate[Session, P], T]


class Lane:
    """The way to one host's libvirt; it belongs to one event loop."""

    def __init__(
        self,
        host: str,
        uri: str,
        *,
        concurrency: int,
        call_timeout: float,
        connect: api.Connect = api.connect,
    ) -> None:
        self.host = host
        self.call_timeout = call_timeout
        self._uri = uri
        self._connect = connect
        self._permits = asyncio.Semaphore(concurrency)
        self._breaker = Breaker()
        self._connection: api.Connection | None = None
        self._lost = Event()
        self._opening: threads.Job[api.Connection] | None = None
        self._probing: threads.Job[int] | None = None
        self._late: dict[threads.Job[object], str | None] = {}
        self._uncertain = False
        self._quiet_until = 0.0
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the host is taken to be reachable; `probe` finds out."""
        return self._breaker.closed

    async def call(
        self,
        work: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the blocking *work* with no subject and the usual deadline: for reading."""
        return await self.effect(None, self.call_timeout, work, *args, **kwargs)

    async def effect(
        self,
        subject: str | None,
        within: float,
        work: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the blocking *work* on *subject* in a thread, for at most *within* seconds.

        The time runs from when one of the lane's places is free. An earlier call on the same
        subject that is still out is waited for first. Raises `Transient` (`host_unreachable`)
        at the deadline and, without trying, while the host is down; a libvirt error as
        `faults.translate` turns it; *work*'s own `CcfdError` as it is.
        """
        self._refuse_when_down()
        async with self._permits:
            deadline = self._now() + within
            await self._admit(deadline)
            await self._settled(subject, deadline)
            connection = await self._connected(deadline)
            await asyncio.sleep(max(0.0, self._quiet_until - self._now()))
            session = Session(self.host, connection)
            job = threads.start(f"libvirt-{self.host}", partial(work, session, *args, **kwargs))
            return await self._outcome(session, job, subject, deadline)

    async def settled(self, subject: str | None = None, within: float | None = None) -> None:
        """Wait until no call on *subject* (None: on anything) is out beyond its deadline.

        Raises `Transient` (`host_unreachable`) when *within* seconds (default: the lane's
        deadline for calls) were not enough.
        """
        limit = self.call_timeout if within is None else within
        await self._settled(subject, self._now() + limit, everything=subject is None)

    async def probe(self, within: float = PROBE_WITHIN) -> bool:
        """Ask the host for its libvirt version; tell whether it answered within the seconds."""
        deadline = self._now() + within
        try:
            connection = await self._connected(deadline)
        except Transient:
            return False
        if self._probing is None or self._probing.done():
            self._probing = threads.start(f"libvirt-{self.host}", connection.getLibVersion)
        probing = self._probing
        if await threads.finished(probing, deadline - self._now()) and isinstance(
            probing.result(), threads.Returned
        ):
            self._up()
            return True
        self._down("no answer to a probe")
        return False

    async def close(self, within: float = PROBE_WITHIN) -> None:
        """Close the connection, waiting no longer than so many seconds for the host."""
        self._closed = True
        if self._opening is not None:
            self._opening.add_done_callback(self._close_opened)
        connection, self._connection = self._connection, None
        if connection is not None:
            await threads.finished(self._dropping(connection), within)

    async def _outcome(
        self, session: Session, job: threads.Job[T], subject: str | None, deadline: float
    ) -> T:
        """Collect what *job* came back with; remember it if it did not."""
        try:
            done = await threads.finished(job, deadline - self._now())
        except asyncio.CancelledError:
            self._remember(session, job, subject)
            raise
        if not done:
            self._remember(session, job, subject)
            self._down("a call did not come back within its deadline", rested=True)
            raise faults.unreachable(self.host, "a call did not come back within its deadline")
        outcome = job.result()
        if isinstance(outcome, threads.Returned):
            return outcome.value
        raise self._translated(outcome.error)

    def _translated(self, error: BaseException) -> BaseException:
        """Turn *error* into what may cross the border; a defect stays what it is."""
        if not isinstance(error, api.LibvirtError):
            return error
        if faults.is_unreachable(error):
            self._uncertain = True
        fault = faults.translate(self.host, error)
        fault.__cause__ = error
        return fault

    def _remember(self, session: Session, job: threads.Job[T], subject: str | None) -> None:
        """Keep a call whose caller has gone, until its thread comes back."""
        session.abandon()
        self._late[job] = subject  # type: ignore[index]  # a Future is invariant; only done() is asked

    def _collect(self) -> None:
        """Forget the late calls that have come back; one that reached the host proves it up."""
        for job in [job for job in self._late if job.done()]:
            del self._late[job]
            outcome = job.result()
            if isinstance(outcome, threads.Raised) and faults.is_unreachable(outcome.error):
                self._uncertain = True
            else:
                self._up()

    def _refuse_when_down(self) -> None:
        """Fail at once while the host is down and it is nobody's turn to try."""
        self._collect()
        if self._closed:
            raise Transient("cancelled", f"the connection to host {self.host} is closed")
        wait = self._breaker.retry_in(self._now())
        if wait > 0:
            raise faults.unreachable(self.host, "it did not answer a moment ago", wait)
        if len(self._late) >= MOST_LATE:
            raise faults.unreachable(self.host, f"{MOST_LATE} calls have not come back", GRACE)

    async def _admit(self, deadline: float) -> None:
        """Let the call pass when the host is up, or when its turn to try ends well."""
        self._refuse_when_down()
        if self._breaker.closed:
            return
        self._breaker.claim_try(self._now())
        if not await self.probe(min(PROBE_WITHIN, deadline - self._now())):
            raise faults.unreachable(
                self.host, "it does not answer", self._breaker.retry_in(self._now())
            )

    async def _settled(
        self, subject: str | None, deadline: float, *, everything: bool = False
    ) -> None:
        """Wait for the late calls on *subject*."""
        if subject is None and not everything:
            return
        late = [job for job, about in self._late.items() if everything or about == subject]
        for job in late:
            if not await threads.finished(job, deadline - self._now()):
                raise faults.unreachable(
                    self.host, f"an earlier call on {subject or 'it'} has not come back", GRACE
                )
        self._collect()

    async def _connected(self, deadline: float) -> api.Connection:
        """Return the connection, opened anew if it was lost; all callers share one attempt.

        Opening hangs without limit when libvirtd is frozen: the thread stays, later callers
        join it.
        """
        current = self._connection
        if current is not None and not self._lost.is_set() and current.isAlive():
            return current
        if self._opening is None:
            if current is not None:
                self._connection = None
                self._dropping(current)
            self._lost = Event()
            self._opening = threads.start(
                f"libvirt-{self.host}", partial(self._connect, self._uri, self._on_close())
            )
        opening = self._opening
        if not await threads.finished(opening, min(CONNECT_WITHIN, deadline - self._now())):
            self._down("connecting takes too long")
            raise faults.unreachable(self.host, "connecting takes too long", self._breaker.rest)
        return self._adopt(opening)

    def _adopt(self, opening: threads.Job[api.Connection]) -> api.Connection:
        """Make the outcome of *opening* the lane's, once."""
        first = self._opening is opening
        if first:
            self._opening = None
        outcome = opening.result()
        if isinstance(outcome, threads.Raised):
            if isinstance(outcome.error, CcfdError | api.LibvirtError):
                self._down(str(outcome.error))
                raise faults.unreachable(
                    self.host, str(outcome.error), self._breaker.rest
                ) from outcome.error
            raise outcome.error
        if first and not self._closed:
            self._connection = outcome.value
            if self._uncertain:
                self._uncertain = False
                self._quiet_until = self._now() + GRACE
            self._up()
        return outcome.value

    def _on_close(self) -> api.OnClose:
        """Return the close callback of the next connection; it runs in libvirt's thread."""
        lost, host = self._lost, self.host

        def on_close(reason: int) -> None:
            lost.set()
            log.warning("host connection lost", host=host, reason=reason)

        return on_close

    def _dropping(self, connection: api.Connection) -> threads.Job[None]:
        """Close *connection* in a thread of its own: closing may ask the host."""
        return threads.start(f"libvirt-{self.host}", partial(api.disconnect, connection))

    def _close_opened(self, opening: threads.Job[api.Connection]) -> None:
        """Close a connection that came after the lane was closed."""
        outcome = opening.result()
        if isinstance(outcome, threads.Returned):
            self._dropping(outcome.value)

    def _up(self) -> None:
        if not self._breaker.closed:
            log.info("host answers", host=self.host)
        self._breaker.reset()

    def _down(self, why: str, *, rested: bool = False) -> None:
        if self._breaker.closed:
            log.warning("host does not answer", host=self.host, why=why)
        self._breaker.trip(self._now(), rested=rested)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
