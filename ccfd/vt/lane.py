"""How ccfd talks to one host's libvirt without its trouble becoming another host's.

A lane is a few connections, a bound on calls at once, a deadline for each, and a memory of those
that did not come back: what a frozen host does when it wakes must not land after an undo
(docs/adr/0005).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from ccfd.calls import noted
from ccfd.errors import CcfdError, Transient
from ccfd.vt import api, faults, threads
from ccfd.vt.breaker import Breaker
from ccfd.vt.connections import Connections
from ccfd.vt.session import Session

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

CONNECT_WITHIN = 10.0
"""Seconds that opening a connection may take."""
PROBE_WITHIN = 2.0
"""Seconds that a probe may take."""
GRACE = 1.0
"""Seconds of quiet after a connection was lost under a running call.

What that call asked for may lie unread in libvirtd's socket. libvirtd reads its sockets in turn
and starts jobs in the order it read them, so by then what is asked anew comes after it.
"""
MOST_LATE = 32
"""Calls that may be out at once beyond their deadline; more would only pile up threads."""


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
        self._connections = Connections(partial(connect, uri))
        self._permits = asyncio.Semaphore(concurrency)
        self._breaker = Breaker()
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
        with noted("libvirt", self.host, getattr(work, "__name__", "call").strip("_")):
            return await self._effect(
                subject, within, lambda session: work(session, *args, **kwargs)
            )

    async def _effect(self, subject: str | None, within: float, work: Callable[[Session], T]) -> T:
        async with self._permits:
            deadline = self._now() + within
            await self._admit(deadline)
            await self._settled(subject, deadline)
            # The call that was waited for may have ended with the loss of its connection.
            await self._admit(deadline)
            await asyncio.sleep(max(0.0, self._quiet_until - self._now()))
            connection = await self._connected(deadline)
            abandoned = Event()
            session = Session(self.host, connection, abandoned)
            job = self._start(partial(self._use, session, partial(work, session)))
            return await self._outcome(abandoned, job, subject, deadline)

    async def settled(self, subject: str | None = None, within: float | None = None) -> None:
        """Wait until no call on *subject* (None: on anything) is out beyond its deadline.

        Raises `Transient` (`host_unreachable`) when *within* seconds (default: the lane's
        deadline for calls) were not enough.
        """
        limit = self.call_timeout if within is None else within
        await self._settled(subject, self._now() + limit, everything=subject is None)

    async def probe(self, within: float = PROBE_WITHIN) -> bool:
        """Ask the host for its libvirt version; tell whether it answered within the seconds.

        All callers share one question: a host that hangs costs one thread, however often it is
        asked.
        """
        deadline = self._now() + within
        self._collect()
        if self._closed:
            return False
        if self._probing is None or self._probing.done():
            self._probing = self._start(self._ask)
        probing = self._probing
        if not await threads.finished(probing, deadline - self._now()):
            self._down("no answer to a probe")
            return False
        outcome = probing.result()
        if isinstance(outcome, threads.Raised):
            self._failed(outcome.error)
            return False
        self._up()
        return True

    async def close(self, within: float = PROBE_WITHIN) -> None:
        """Close the connections, waiting no longer than so many seconds for the host.

        One that a call is still using is closed when the call comes back.
        """
        self._closed = True
        await threads.finished(self._start(self._connections.close), within)

    async def _outcome(
        self, abandoned: Event, job: threads.Job[T], subject: str | None, deadline: float
    ) -> T:
        """Collect what *job* came back with; remember it if it did not."""
        try:
            done = await threads.finished(job, deadline - self._now())
        except asyncio.CancelledError:
            self._remember(abandoned, job, subject)
            raise
        if not done:
            self._remember(abandoned, job, subject)
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
            self._lost(str(error))
        fault = faults.translate(self.host, error)
        fault.__cause__ = error
        return fault

    def _remember(self, abandoned: Event, job: threads.Job[T], subject: str | None) -> None:
        """Keep a call whose caller has gone, until its thread comes back."""
        abandoned.set()
        self._late[job] = subject  # type: ignore[index]  # a Future is invariant; only done() is asked

    def _collect(self) -> None:
        """Forget the late calls that have come back; one that reached the host proves it up."""
        for job in [job for job in self._late if job.done()]:
            del self._late[job]
            outcome = job.result()
            if isinstance(outcome, threads.Raised) and faults.is_unreachable(outcome.error):
                self._lost(str(outcome.error))
            else:
                self._up()

    def _refuse_when_down(self) -> None:
        """Fail at once while the host is down and was tried a moment ago."""
        self._collect()
        if self._closed:
            raise Transient("cancelled", f"the connection to host {self.host} is closed")
        wait = self._breaker.retry_in(self._now())
        if wait > 0:
            raise faults.unreachable(self.host, "it did not answer a moment ago", wait)
        if len(self._late) >= MOST_LATE:
            raise faults.unreachable(self.host, f"{MOST_LATE} calls have not come back", GRACE)

    async def _admit(self, deadline: float) -> None:
        """Let the call pass when the host is up, or when a probe, shared by all, shows it."""
        self._refuse_when_down()
        if self._breaker.closed:
            return
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
        """Take a connection for one call; a new one is opened in a thread, which may hang."""
        idle = self._connections.idle()
        if idle is not None:
            return idle
        opening = self._start(self._connections.open)
        try:
            done = await threads.finished(opening, min(CONNECT_WITHIN, deadline - self._now()))
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep)
            raise
        if not done:
            opening.add_done_callback(self._keep)
            self._down("connecting takes too long")
            raise faults.unreachable(self.host, "connecting takes too long", self._breaker.rest)
        outcome = opening.result()
        if isinstance(outcome, threads.Returned):
            return outcome.value
        raise self._failed(outcome.error)

    def _failed(self, error: BaseException) -> CcfdError:
        """Say why the host could not be reached; a defect is raised as it is."""
        if not isinstance(error, api.LibvirtError):
            raise error
        self._down(str(error))
        fault = faults.unreachable(self.host, str(error), self._breaker.rest)
        fault.__cause__ = error
        return fault

    def _keep(self, opening: threads.Job[api.Connection]) -> None:
        """Keep a connection that came too late for its caller; runs in the opening thread."""
        outcome = opening.result()
        if isinstance(outcome, threads.Returned):
            self._connections.give_back(outcome.value)

    def _use(self, session: Session, work: Callable[[], T]) -> T:
        """Do the work in its thread, and give the connection back there."""
        try:
            return work()
        finally:
            self._connections.give_back(session.connection)

    def _ask(self) -> int:
        connection = self._connections.idle() or self._connections.open()
        try:
            return connection.getLibVersion()
        finally:
            self._connections.give_back(connection)

    def _start(self, work: Callable[[], T]) -> threads.Job[T]:
        return threads.start(f"libvirt-{self.host}", work)

    def _lost(self, why: str) -> None:
        """Note that a connection went away under a call, whose effect may still come."""
        self._uncertain = True
        self._down(why, rested=True)

    def _up(self) -> None:
        if not self._breaker.closed:
            log.info("host answers", host=self.host)
        self._breaker.reset()
        if self._uncertain:
            self._uncertain = False
            self._quiet_until = self._now() + GRACE

    def _down(self, why: str, *, rested: bool = False) -> None:
        if self._breaker.closed:
            log.warning("host does not answer", host=self.host, why=why)
        self._breaker.trip(self._now(), rested=rested)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
