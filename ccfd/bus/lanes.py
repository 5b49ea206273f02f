"""When is a message that the broker turned down tried again, and when no more?

Only the messages of the same request wait for it, so that their order holds.
"""

from dataclasses import dataclass

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
ATTEMPTS = 8
# So many requests may wait at once; with more, everything waits for them.
LANES = 500


@dataclass(slots=True)
class Held:
    """A lane that waits."""

    row: int
    failures: int
    due: float


class Lanes:
    """The lanes that are held up. Times are those of the event loop."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def waiting(self, now: float) -> list[str]:
        """List the lanes that are not to be tried yet."""
        return [lane for lane, held in self._held.items() if held.due > now]

    def is_held(self, lane: str) -> bool:
        """Tell whether a message of the lane was turned down and has not passed since."""
        return lane in self._held

    def turned_down(self, lane: str, row: int, now: float) -> bool:
        """Hold *lane* up for a while because of *row*; return False when that is given up."""
        held = self._held.get(lane)
        failures = held.failures + 1 if held is not None and held.row == row else 1
        if failures >= ATTEMPTS:
            self._held.pop(lane, None)
            return False
        pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
        self._held[lane] = Held(row, failures, now + pause)
        return True

    def passed(self, lane: str) -> None:
        """Note that the lane is free again."""
        self._held.pop(lane, None)
