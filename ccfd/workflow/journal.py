"""What became of a workflow's steps, and what is therefore to be done next.

Pure: the runner asks `next_move`, carries it out, tells the journal, and stores it. One record a
stage: before the steps of a stage begin, the record that names that stage is durable. So after a
crash the named stage's steps may or may not have happened, those before it have (going forward)
and those after it have not; going backward it is the other way round.

The stored form is a log, a line of JSON for each record: where the workflow stands, and what
became of the steps that were touched since the line before. It only grows at its end, so a record
costs the same however many steps there are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic_core import to_json

from ccfd.workflow.steps import Steps


class StepState(StrEnum):
    """What is known of a step."""

    PENDING = "pending"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(slots=True)
class StepRecord:
    """What became of one step; times are seconds since the epoch."""

    state: StepState = StepState.PENDING
    attempts: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    error: dict[str, Any] | None = None
    value: dict[str, Any] | None = None
    calls: Sequence[dict[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the stored form; what is at its default is left out."""
        stored: dict[str, Any] = {
            "state": self.state.value,
            "attempts": self.attempts,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }
        if self.error is not None:
            stored["error"] = self.error
        if self.value is not None:
            stored["value"] = self.value
        if self.calls:
            stored["calls"] = self.calls
        return stored

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "StepRecord":
        """Read the stored form."""
        return cls(**{**stored, "state": StepState(stored["state"])})

    def begin(self, now: float) -> None:
        """Note that the step's effect may happen from now on."""
        self.state = StepState.STARTED
        if self.started_at is None:
            self.started_at = now
        self.ended_at = None

    def end(self, state: StepState, now: float, error: dict[str, Any] | None = None) -> None:
        """Note how it ended."""
        self.state = state
        self.ended_at = now
        self.error = error


class Move(StrEnum):
    """What is to be done next."""

    RUN = "run"
    UNDO = "undo"
    SETTLE = "settle"
    FORGET = "forget"
    ABANDON = "abandon"


@dataclass(slots=True)
class Journal:
    """Where a workflow stands: the stage under way, the direction, and every step's record.

    `touched` holds the indexes of the records that have changed since the last line was stored.
    """

    records: list[StepRecord]
    stage: int = 0
    backward: bool = False
    error: dict[str, Any] | None = None
    stuck: bool = False
    touched: set[int] = field(default_factory=set)

    @classmethod
    def fresh(cls, steps: Steps) -> "Journal":
        """Start at the beginning."""
        return cls([StepRecord() for _ in steps.flat])

    @classmethod
    def read(cls, log: str, steps: Steps) -> "Journal":
        """Read the stored form: every line so far."""
        journal = cls.fresh(steps)
        for line in log.split("\n")[:-1]:
            stored = json.loads(line)
            for index, record in stored.pop("records").items():
                journal.records[int(index)] = StepRecord.from_json(record)
            journal.stage = stored["stage"]
            journal.backward = stored["backward"]
            journal.error = stored.get("error")
            journal.stuck = stored.get("stuck", False)
        return journal

    def line(self) -> str:
        """Return what is to be added to the stored form."""
        stored: dict[str, Any] = {
            "stage": self.stage,
            "backward": self.backward,
            "records": {index: self.records[index].to_json() for index in self.touched},
        }
        if self.error is not None:
            stored["error"] = self.error
        if self.stuck:
            stored["stuck"] = True
        return to_json(stored).decode() + "\n"

    def next_move(self, steps: Steps) -> Move:
        """Say what is to be done next."""
        if self.stuck:
            return Move.ABANDON
        if self.backward:
            return Move.UNDO if self.stage >= 0 and self.records else Move.FORGET
        if self.stage < len(steps.stages):
            return Move.RUN
        return Move.SETTLE

    def advance(self) -> None:
        """Note that the stage under way is over, in the direction that it went."""
        self.stage += -1 if self.backward else 1

    def turn_back(self, error: dict[str, Any], steps: Steps) -> None:
        """Go backward because of *error*, from the stage under way; past the pivot: give up."""
        self.error = self.error or error
        if self.stage >= steps.pivot and steps.pivot < len(steps.stages):
            self.stuck = True
        else:
            self.backward = True
            self.stage = min(self.stage, len(steps.stages) - 1)

    def never_begin(self, error: dict[str, Any]) -> None:
        """Note that no step will be begun, because of *error*: there is nothing to undo."""
        self.error = error
        self.backward = True
        self.stage = -1

    def give_up(self, error: dict[str, Any]) -> None:
        """Note that an undo cannot be done: a person has to look."""
        self.error = self.error or error
        self.stuck = True
