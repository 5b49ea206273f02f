"""What takes too long is broken off."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from ccfd.workflow.deadline import Deadline
from tests.unit.workflow.lives import Clock, Loop

T = TypeVar("T")


async def work(deadline: Deadline, seconds: float) -> str:
    try:
        with deadline.watch():
            await asyncio.sleep(seconds)
    except TimeoutError:
        return "late"
    return "done"


def on_a_clock(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run *story* on a clock that goes on whenever there is nothing to do."""
    clock = Clock()
    loop = Loop(clock)
    task = loop.create_task(story())
    try:
        loop.turn()
        while not task.done():
            assert loop.wakes_at is not None
            clock.now = loop.wakes_at
            loop.turn()
        return task.result()
    finally:
        loop.close()


def test_each_has_its_time_and_who_is_late_is_broken_off() -> None:
    async def story() -> list[str]:
        deadline = Deadline(5)
        return await asyncio.gather(*(work(deadline, seconds) for seconds in (0, 3600, 4, 3600)))

    assert on_a_clock(story) == ["done", "late", "done", "late"]


def test_one_that_begins_later_is_late_later() -> None:
    async def story() -> float:
        deadline, loop = Deadline(5), asyncio.get_running_loop()
        assert await work(deadline, 3) == "done"
        began = loop.time()
        assert await work(deadline, 3600) == "late"
        return loop.time() - began

    assert on_a_clock(story) == pytest.approx(5)


async def test_another_error_of_a_late_block_is_its_own() -> None:
    deadline = Deadline(0.01)

    async def work_with_an_end() -> None:
        with deadline.watch():
            try:
                await asyncio.sleep(3600)
            finally:
                raise ValueError("as it ended")

    with pytest.raises(ValueError, match="as it ended"):
        await work_with_an_end()


async def test_whoever_is_cancelled_is_not_late() -> None:
    deadline = Deadline(0.05)
    working = asyncio.get_running_loop().create_task(work(deadline, 3600))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_whoever_is_cancelled_when_its_time_is_over_is_cancelled() -> None:
    deadline, loop = Deadline(0.01), asyncio.get_running_loop()
    working = loop.create_task(work(deadline, 3600))
    await asyncio.sleep(0)
    for watch in tuple(deadline.watched):
        watch.break_off()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
