"""How one workflow is carried out: stage by stage, forward, and back when one fails."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import structlog

from ccfd.calls import KEPT, collected
from ccfd.errors import CcfdError, Refused, Transient
from ccfd.workflow import retry
from ccfd.workflow.deadline import Deadline
from ccfd.workflow.journal import Move, StepRecord, StepState
from ccfd.workflow.records import Flow, LostError, cancelled
from ccfd.workflow.steps import Effects, Step, Value

log = structlog.get_logger()

PERSISTENCE = 3
"""Times the retries that an undo has, and a step after the pivot: giving up leaves something."""


_ACTS = (Move.RUN, Move.UNDO)

# What a step does, or undoes: takes the step's argument.
Act = Callable[[Any], Awaitable[Value]] | Callable[[Any], Awaitable[None]]


class Journaled(Protocol):
    """Where a flow's state is kept."""

    async def record(self, flow: Flow) -> None:
        """Store where *flow* stands."""

    async def settle(self, flow: Flow) -> None:
        """End it: done."""

    async def forget(self, flow: Flow) -> None:
        """End it: undone."""

    async def abandon(self, flow: Flow) -> None:
        """End it as it is."""


class Watcher(Protocol):
    """Who is told of each step, at once and without warranty."""

    def step(self, flow: Flow, index: int, status: str) -> None:
        """Tell that step number *index* (from 0) has become *status*."""

    def attempt(self, step: Step, outcome: str, seconds: float) -> None:
        """Tell how one attempt at an effect ended."""


class Stopping(Exception):
    """The daemon stops: the workflow stays as recorded, the next start goes on."""


class Runner:
    """Carries out workflows. `step_timeout` in seconds; `retries` after the first attempt.

    `clock` tells seconds since the epoch; `held`, whether this daemon still may: no effect is
    begun when it may not.
    """

    def __init__(
        self,
        effects: Effects,
        records: Journaled,
        watcher: Watcher,
        *,
        held: Callable[[], bool],
        step_timeout: float,
        retries: int,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._effects = effects
        self._records = records
        self._watcher = watcher
        self._held = held
        self._deadline = Deadline(step_timeout)
        self._retries = retries
        self._clock = clock
        self._random = random
        self.stopping = asyncio.Event()

    async def act(self, flow: Flow) -> None:
        """Carry *flow* on until no step is left, forward or back, and only its end is missing.

        Raises `Stopping` between two stages when asked to stop.
        """
        while (move := flow.journal.next_move(flow.steps)) in _ACTS:
            await (self._forward(flow) if move is Move.RUN else self._backward(flow))

    async def end(self, flow: Flow) -> None:
        """Store the end of a *flow* that has no step left."""
        match flow.journal.next_move(flow.steps):
            case Move.SETTLE:
                await self._records.settle(flow)
            case Move.FORGET:
                await self._records.forget(flow)
            case _:
                await self._records.abandon(flow)

    async def _forward(self, flow: Flow) -> None:
        """Do the stage under way; then record the next one, or the turn."""
        journal, steps = flow.journal, flow.steps
        error: CcfdError | None = None
        if flow.cancelled and journal.stage < steps.pivot:
            error = cancelled()
        else:
            outcomes = await self._all(flow, self._do)
            error = next((outcome for outcome in outcomes if outcome is not None), None)
        if error is not None:
            journal.turn_back(error.document(), steps)
            log.info(
                "workflow turns back",
                request=flow.asked.request_id,
                code=error.code,
                message=error.message,
                stuck=journal.stuck,
            )
        else:
            journal.advance()
        # The record after the last stage is the settlement itself.
        if journal.next_move(steps) in _ACTS:
            await self._record(flow)

    async def _backward(self, flow: Flow) -> None:
        """Undo the stage under way; then record the one before it."""
        outcomes = await self._all(flow, self._undo)
        error = next((outcome for outcome in outcomes if outcome is not None), None)
        if error is not None:
            log.error(
                "undo failed", request=flow.asked.request_id, code=error.code, message=error.message
            )
            flow.journal.give_up(error.document())
            return
        flow.journal.advance()
        if flow.journal.next_move(flow.steps) is Move.UNDO:
            await self._record(flow)

    async def _record(self, flow: Flow) -> None:
        await self._records.record(flow)
        if self.stopping.is_set():
            raise Stopping

    async def _all(
        self, flow: Flow, act: Callable[[Flow, int], Coroutine[None, None, CcfdError | None]]
    ) -> list[CcfdError | None]:
        """Act on every step of the stage under way, side by side; wait for all of them.

        The first in this task, each other one in a task of its own; where one raises, no other
        outlives it.
        """
        offset = flow.steps.offsets[flow.journal.stage]
        count = len(flow.steps.stages[flow.journal.stage])
        # Not in a task group, which costs some more: all of them are awaited just below.
        others = [
            asyncio.create_task(act(flow, offset + i))  # noqa: TID251
            for i in range(1, count)
        ]
        try:
            return [await act(flow, offset), *[await other for other in others]]
        except BaseException:
            for other in others:
                other.cancel()
            for other in others:
                with suppress(BaseException):
                    await other
            raise

    async def _do(self, flow: Flow, index: int) -> CcfdError | None:
        """Have one effect; return the error that it ends with, if any."""
        step, record = flow.steps.flat[index], flow.journal.records[index]
        if record.state is StepState.DONE:
            return None
        record.begin(self._clock())
        self._watcher.step(flow, index, "started")
        effect = self._effects[step.name]
        error = await self._persist(flow, index, effect.do, effect.read(step.args))
        now = self._clock()
        if error is None:
            record.end(StepState.DONE, now)
            self._watcher.step(flow, index, "done")
        else:
            record.end(StepState.FAILED, now, error.document())
        return error

    async def _undo(self, flow: Flow, index: int) -> CcfdError | None:
        """Undo one effect, whether or not it came about."""
        step, record = flow.steps.flat[index], flow.journal.records[index]
        effect = self._effects[step.name]
        # A step that looks pending may have begun: a stage is recorded before its steps begin,
        # without a mark for each.
        if effect.undo is None or record.state is StepState.UNDONE:
            return None
        self._watcher.step(flow, index, "undoing")
        error = await self._persist(flow, index, effect.undo, effect.read(step.args))
        if error is None:
            record.end(StepState.UNDONE, self._clock(), record.error)
            self._watcher.step(flow, index, "undone")
        return error

    async def _persist(self, flow: Flow, index: int, act: Act, args: Any) -> CcfdError | None:
        """Act until it works, it is refused, or the retries are used up."""
        step, record = flow.steps.flat[index], flow.journal.records[index]
        flow.journal.touched.add(index)
        retries = self._retries
        if flow.journal.backward or flow.journal.stage >= flow.steps.pivot:
            retries *= PERSISTENCE
        for attempt in range(1, retries + 2):
            record.attempts += 1
            with collected() as calls:
                error = await self._attempt(flow, step, record, act, args)
            if calls:
                record.calls = [*record.calls, *calls][-KEPT:]
            if error is None or not isinstance(error, Transient) or attempt > retries:
                return error
            record.error = error.document()
            self._watcher.step(flow, index, "retrying")
            await asyncio.sleep(retry.pause(attempt, error.retry_in, self._random.random))
        raise AssertionError("unreachable")

    async def _attempt(
        self, flow: Flow, step: Step, record: StepRecord, act: Act, args: Any
    ) -> CcfdError | None:
        """Act once within the deadline; turn every exception into an error with a code."""
        if not self._held():
            raise LostError(flow.asked.request_id)
        error: CcfdError | None = None
        watch = self._deadline.watch()
        try:
            with watch:
                value = await act(args)
        except TimeoutError:
            seconds = self._deadline.seconds
            error = Transient("timeout", f"{step.name} took over {seconds:g} s")
        except CcfdError as exc:
            error = exc
        except Exception as exc:
            log.exception("step is defective", request=flow.asked.request_id, step=step.name)
            error = Refused("internal", f"{step.name}: {exc!r}; this is a defect of ccfd")
        else:
            # What a step returned is kept while it is undone.
            record.value = record.value if value is None else value
        outcome = "done" if error is None else error.code
        self._watcher.attempt(step, outcome, watch.seconds)
        return error


def progress(flow: Flow, index: int, status: str) -> dict[str, Any]:
    """Return the field `progress` of a progress message."""
    flat = flow.steps.flat
    return {"step": flat[index].name, "index": index + 1, "of": len(flat), "status": status}
