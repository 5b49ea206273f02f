"""What became of a workflow's steps, and what is therefore to be done next.

Pure: the runner asks `next_move`, carries it out, tells the journal, and stores it. One record a
stage: before the steps of a stage begin, the record that names that stage is durable. So after a
crash the named stage's steps may or may not have happened, those before it have (going forward)
and those after it have not; going backward it is the other way round.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

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
    """What became of one step; times are RFC 3339."""

    state: StepState = StepState.PENDING
    attempts: int = 0
    started_at: str | None = None
    ended_at: str | None = None
    error: dict[str, Any] | None = None
    value: dict[str, Any] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form; what is at its default is left out."""
        if not self.attempts:
            return {"state": self.state}
        stored: dict[str, Any] = {"state": self.state, "attempts": self.attempts}
        for name in _MORE:
            value = getattr(self, name)
            if value is not None and value != []:
                stored[name] = value
        return stored

    def begin(self, now: datetime) -> None:
        """Note that the step's effect may happen from now on."""
        self.state = StepState.STARTED
        self.started_at = self.started_at or now.isoformat()
        self.ended_at = None

    def end(self, state: StepState, now: datetime, error: dict[str, Any] | None = None) -> None:
        """Note how it ended."""
        self.state = state
        self.ended_at = now.isoformat()
        self.error = error


_MORE = ("started_at", "ended_at", "error", "value", "calls")


class Move(StrEnum):
    """What is to be done next."""

    RUN = "run"
    UNDO = "undo"
    SETTLE = "settle"
    FORGET = "forget"
    ABANDON = "abandon"


@dataclass(slots=True)
class Journal:
    """Where a workflow stands: the stage under way, the direction, and every step's record."""

    records: list[StepRecord]
    stage: int = 0
    backward: bool = False
    error: dict[str, Any] | None = None
    stuck: bool = field(default=False)

    @classmethod
    def fresh(cls, steps: Steps) -> "Journal":
        """Start at the beginning."""
        return cls([StepRecord() for _ in steps.flat])

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Journal":
        """Read the stored form."""
        records = [
            StepRecord(**{**record, "state": StepState(record["state"])})
            for record in stored["records"]
        ]
        return cls(records, stored["stage"], stored["backward"], stored["error"], stored["stuck"])

    def to_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "records": [record.to_json() for record in self.records],
            "stage": self.stage,
            "backward": self.backward,
            "error": self.error,
            "stuck": self.stuck,
        }

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
