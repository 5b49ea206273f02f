"""Which calls to hosts a step makes: noted where they happen, kept with the step's record.

Drivers say `with noted("libvirt", "h1", "boot")`; whoever wants to know says `with collected()`.
Nobody has to pass anything along: the list travels with the context (PEP 567).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

KEPT = 50
"""Calls that are kept of one attempt at a step; those behind are only counted by the log."""

_calls: ContextVar[list[dict[str, Any]] | None] = ContextVar("ccfd_calls", default=None)


class collected:  # noqa: N801 - used as a function
    """Give the list that the block's calls are noted in, in the order in which they end."""

    __slots__ = ("_token",)

    def __enter__(self) -> list[dict[str, Any]]:
        """Begin."""
        calls: list[dict[str, Any]] = []
        self._token = _calls.set(calls)
        return calls

    def __exit__(self, *_raised: object) -> None:
        """End."""
        _calls.reset(self._token)


@contextmanager
def noted(service: str, where: str, what: str) -> Iterator[None]:
    """Note the block as one call: *what* was asked of *service* at *where*, and how it ended."""
    calls = _calls.get()
    if calls is None or len(calls) >= KEPT:
        yield
        return
    began, started_at = time.monotonic(), datetime.now(UTC).isoformat()
    error: str | None = None
    try:
        yield
    except BaseException as exc:
        error = str(exc) or type(exc).__name__
        raise
    finally:
        calls.append(
            {
                "service": service,
                "where": where,
                "what": what,
                "started_at": started_at,
                "seconds": round(time.monotonic() - began, 4),
                "error": error,
            }
        )
