"""When may a progress message go out, among the results of its request?

After `accepted`, before the terminal, best effort: what comes too late or is too much is dropped.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

# Requests that ended last: later progress of theirs is dropped.
REMEMBERED = 4096

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress message that waits."""

    request_id: str
    body: dict[str, Any]
    correlation_id: str | None
    traceparent: str | None = None


class Ended:
    """The requests whose terminal result went out a short while ago."""

    def __init__(self) -> None:
        self._order: deque[str] = deque()
        self._known: set[str] = set()

    def add(self, request_id: str) -> None:
        """Remember one, and forget the oldest where there are too many."""
        if request_id not in self._known:
            self._known.add(request_id)
            self._order.append(request_id)
            if len(self._order) > REMEMBERED:
                self._known.discard(self._order.popleft())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._known


@dataclass(frozen=True, slots=True)
class Arranged(Generic[R]):
    """What goes out now, in order, and the progress that waits for the next time."""

    items: list[R | Progress]
    later: list[Progress]


def arrange(
    rows: Sequence[tuple[R, str | None]], ripe: Sequence[Progress], green: Iterable[Progress]
) -> Arranged[R]:
    """Put progress among *rows* (each with the request that it ends, if it ends one).

    A request's progress goes before the row that ends it. Otherwise *ripe* progress goes last,
    and *green* progress (told after the rows were looked up: its `accepted` may not be among
    them) waits.
    """
    waiting: defaultdict[str, list[Progress]] = defaultdict(list)
    green = list(green)
    for progress in (*ripe, *green):
        waiting[progress.request_id].append(progress)
    items: list[R | Progress] = []
    for row, ends in rows:
        if ends is not None:
            items += waiting.pop(ends, ())
        items.append(row)
    items += (progress for progress in ripe if progress.request_id in waiting)
    return Arranged(items, [progress for progress in green if progress.request_id in waiting])
