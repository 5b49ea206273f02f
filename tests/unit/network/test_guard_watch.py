"""When guards are looked at."""

import asyncio
from typing import Any

import pytest

from ccfd.errors import Transient
from ccfd.network import guard_watch
from ccfd.network.guard_watch import GuardWatch
from ccfd.network.monitor import News
from ccfd.settings import Settings

EVERY = Settings.model_validate({"reconcile": {"every": 1000}})


class Guard:
    """A guard that is looked at, and may not answer."""

    host = "h1"

    def __init__(self) -> None:
        self.looks = 0
        self.silent = 0
        self.found = (0, 0)
        self._looked = asyncio.Event()

    async def restore(self) -> tuple[int, int]:
        self.looks += 1
        self._looked.set()
        if self.silent:
            self.silent -= 1
            raise Transient("switch_error", "no")
        return self.found

    async def looked(self, times: int) -> None:
        async with asyncio.timeout(60):
            while self.looks < times:
                self._looked.clear()
                await self._looked.wait()


async def test_a_switch_that_was_started_anew_is_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard_watch, "FIRST_PAUSE", 0.001)
    guard, repaired, leads = Guard(), list[str](), [True]
    guards: Any = [guard]
    watch = GuardWatch(EVERY, guards, lambda: leads[0], repaired.append)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watch.run())
        await guard.looked(1)
        for of_no_concern in (
            News(what="changed", hosts=frozenset({"h1"})),
            News(what="restarted", hosts=frozenset({"h2"})),
        ):
            watch.hear(of_no_concern)
        guard.found, guard.silent = (2, 1), 2
        watch.hear(News(what="restarted", hosts=frozenset({"h1"})))
        await guard.looked(4)  # twice it did not answer
        await asyncio.sleep(0)
        assert repaired == ["flows"] * 3
        leads[0] = False
        watch.hear(News(what="heard", hosts=frozenset({"h1"})))
        await asyncio.sleep(0.01)
        assert guard.looks == 4
        running.cancel()
