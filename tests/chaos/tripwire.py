"""Where a ccfd over twins can be killed, and the wire that kills it there with SIGKILL.

A point is an instant of a step (`boot`, `undo boot`: before, during, after) or of a transaction
(`commit: decide`: before, after). `during` lies between the parts of a compound effect.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ccfd.store.database import Database, Transaction
from ccfd.workflow.steps import Effect, Effects
from tests.chaos import keep
from tests.twins import World

T = TypeVar("T")

# What is under way: the step, or the transaction, that the points are called after.
UNDER_WAY: ContextVar[str] = ContextVar("under_way", default="other")
# What the transactions of methods are to a reader.
COMMITS = {
    "_register_alone": "register",
    "send": "store",
    "_decide": "decide",
    "_take_up": "take up",
}


class Point(NamedTuple):
    """The *number*-th time (from 1) that an instant comes."""

    what: str
    moment: str
    number: int


@dataclass
class Tripwire:
    """Lists the points that are passed, and kills this process at one: `at`, or the `nth`."""

    at: Point | None = None
    nth: int | None = None
    passed: list[Point] = field(default_factory=list)
    _times: Counter[tuple[str, str]] = field(default_factory=Counter)

    def touch(self, moment: str) -> None:
        """Pass a point of what is under way, or die there."""
        what = UNDER_WAY.get()
        self._times[what, moment] += 1
        point = Point(what, moment, self._times[what, moment])
        if point == self.at or len(self.passed) == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(point)


@contextmanager
def under_way(what: str) -> Iterator[None]:
    """Name what is under way within the block."""
    token = UNDER_WAY.set(what)
    try:
        yield
    finally:
        UNDER_WAY.reset(token)


def wired(effects: Effects, world: World, file: Path, wire: Tripwire) -> Effects:
    """Have *effects* keep their *world* in *file*, and stretch the wire around each."""

    def around(what: str, act: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def step(args: Any) -> Any:
            with under_way(what):
                wire.touch("before")
                try:
                    return await act(args)
                finally:
                    keep.save(world, file)
                    wire.touch("after")

        return step

    async def halfway() -> None:
        keep.save(world, file)
        wire.touch("during")

    world.halfway = halfway
    return {
        name: Effect(
            effect.takes,
            around(name, effect.do),
            None if effect.undo is None else around(f"undo {name}", effect.undo),
        )
        for name, effect in effects.items()
    }


def wire_commits(database: Database, wire: Tripwire) -> None:
    """Stretch the wire around every commit, called after the method whose transaction it ends."""
    dialect = database.engine.sync_engine.dialect
    run, commit = database.run, dialect.do_commit

    async def named_run(work: Callable[[Transaction], Awaitable[T]]) -> T:
        # `Records.settle.<locals>.write`; of a partial it is that of its function.
        named = getattr(work, "func", work)
        method = getattr(named, "__qualname__", "other").split(".")[:2][-1]
        with under_way(f"commit: {COMMITS.get(method, method)}"):
            return await run(work)

    def wired_commit(dbapi_connection: Any) -> None:
        wire.touch("before")
        commit(dbapi_connection)
        wire.touch("after")

    database.run = named_run  # type: ignore[method-assign]
    dialect.do_commit = wired_commit  # type: ignore[method-assign]
