"""What a fault did to a number of requests: one row of the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults.fault import Fault


@dataclass(kw_only=True)
class Row:
    """The requests of one type that a fault met, and what became of them."""

    fault: Fault
    event: str
    requests: int
    under_way: int = 0
    """Of the requests: those that had not ended when the fault came."""
    lost: int = 0
    twice: int = 0
    succeeded: int = 0
    undone: int = 0
    half: int = 0
    """Failed, and not wholly undone by themselves: they were sent or tried again later."""
    put_back: int = 0
    removed: int = 0
    leaks: int = 0
    seconds: float = 0.0
    """From the end of the fault until the last request had ended."""
    notes: list[str] = field(default_factory=list)
    whole: bool = True

    @property
    def once(self) -> int:
        """Count the requests that have ended once."""
        return self.requests - self.lost - self.twice

    @property
    def good(self) -> bool:
        """Tell whether nothing was lost, done twice, leaked, or could not be put right."""
        return self.whole and not (self.lost or self.twice or self.leaks)

    def leak(self, things: dict[str, list[str]]) -> None:
        """Note what nobody needs and is there."""
        for kind, names in things.items():
            self.leaks += len(names)
            self.notes.append(f"leaked {kind}: {names}")

    def double(self, what: list[str]) -> None:
        """Note what is there twice."""
        self.twice += len(what)
        self.notes += [f"twice: {one}" for one in what]

    def not_whole(self, why: str) -> None:
        """Note what could not be put right."""
        self.whole = False
        self.notes.append(why)

    def count(self, request: str, ends: list[dict[str, Any]]) -> None:
        """Count a request by its terminal results, copies left out."""
        if not ends:
            self.lost += 1
            self.notes.append(f"{request} has not ended")
        elif len(ends) > 1:
            self.twice += 1
            self.notes.append(f"{request} ended as {ends}")
        elif ends[0]["outcome"] == "succeeded":
            self.succeeded += 1
        else:
            error = ends[0]["error"]
            self.notes.append(f"{request} failed: {error['code']}: {error['message']}")
            if ends[0]["compensated"]:
                self.undone += 1
            else:
                self.half += 1
