"""Where a request's steps stand, as its progress messages tell: pure."""

from dataclasses import dataclass, field
from typing import Any

RUNNING = frozenset({"started", "retrying", "undoing"})


@dataclass(slots=True)
class Line:
    """One step; times in seconds of the caller's clock."""

    name: str
    status: str
    began: float
    ended: float | None = None

    def seconds(self, now: float) -> float:
        """Return how long it took, or has taken so far."""
        return max(0.0, (self.ended if self.ended is not None else now) - self.began)


@dataclass(slots=True)
class Board:
    """All steps of one request, by their index."""

    of: int = 0
    lines: dict[int, Line] = field(default_factory=dict)

    def update(self, index: int, of: int, name: str, status: str, now: float) -> bool:
        """Take a step's new status; tell whether anything changed."""
        self.of = max(self.of, of, index)
        line = self.lines.get(index)
        if line is None:
            line = self.lines[index] = Line(name, status, now)
        elif line.status == status:
            return False
        elif status == "undoing":
            line.began, line.ended = now, None
        line.status = status
        if status not in RUNNING:
            line.ended = now
        elif status == "retrying":
            line.ended = None
        return True

    @property
    def done(self) -> int:
        """How many steps are done."""
        return sum(line.status == "done" for line in self.lines.values())


def of_progress(body: dict[str, Any]) -> tuple[int, int, str, str]:
    """Return index, count, name and status of a progress message's body."""
    progress = body["progress"]
    return progress["index"], progress["of"], progress["step"], progress["status"]
