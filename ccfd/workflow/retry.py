"""When a step is tried again: exponential back-off with jitter.

The default of five retries lasts about 20 s: a daemon that ccfd depends on is restarted in that.
"""

from collections.abc import Callable

FIRST = 0.25
GROWTH = 3.0
LONGEST = 15.0


def pause(attempt: int, asked: float | None, random: Callable[[], float]) -> float:
    """Return the seconds to wait after failed attempt number *attempt* (from 1).

    *asked* is what the error itself asked for. *random* gives numbers in [0, 1).
    """
    if asked is not None:
        return asked
    ceiling = min(LONGEST, FIRST * GROWTH ** (attempt - 1))
    return ceiling * (0.5 + 0.5 * random())
