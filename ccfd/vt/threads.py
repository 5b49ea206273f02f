"""How a blocking function runs beside the event loop without ever holding it up.

Not in a ThreadPoolExecutor: the interpreter joins an executor's threads when it exits, so one
libvirt call that hangs would keep a stopped daemon alive. Here each job has a daemon thread
(about 50 µs; the cheapest libvirt call takes 200), and the lane bounds their number.
"""

import asyncio
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Returned(Generic[T]):
    """The job came back with a value."""

    value: T


@dataclass(frozen=True, slots=True)
class Raised:
    """The job came back with an error."""

    error: BaseException


Job = Future[Returned[T] | Raised]
"""A function that runs in a thread; its future never raises, so that nobody has to collect it."""


def start(name: str, work: Callable[[], T]) -> Job[T]:
    """Run *work* in a daemon thread called *name*."""
    job: Job[T] = Future()
    job.set_running_or_notify_cancel()
    threading.Thread(target=_run, args=(job, work), name=name, daemon=True).start()
    return job


async def finished(job: Job[T], within: float) -> bool:
    """Wait for *job*; tell whether it came back within so many seconds.

    The time running out, or the waiter's cancellation, leaves the job as it is: a thread cannot
    be stopped.
    """
    waiter = asyncio.wrap_future(job)
    try:
        await asyncio.wait({waiter}, timeout=max(0.0, within))
    finally:
        if not waiter.done():
            waiter.cancel()
    return job.done()


def _run(job: Job[T], work: Callable[[], T]) -> None:
    outcome: Returned[T] | Raised
    try:
        outcome = Returned(work())
    except BaseException as exc:
        # The frames hold libvirt objects; freeing the last one may talk to the host, and must
        # not happen in the thread of the event loop.
        traceback.clear_frames(exc.__traceback__)
        outcome = Raised(exc)
    job.set_result(outcome)
