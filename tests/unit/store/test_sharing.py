"""What waits for the same thing goes together."""

import asyncio
from collections.abc import Sequence

import pytest

from ccfd.store.sharing import Sharing


class Alone(Exception):
    """An error that one of several may be at fault for."""


class Writer:
    """Doubles numbers, a group at a time, when it is let."""

    def __init__(self, lanes: int = 1, most: int = 8) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.at_once = self.most_at_once = 0
        self.bad: dict[int, Exception] = {}
        self.share = Sharing[int, int](self._write, most=most, lanes=lanes, alone=Alone)

    async def all(self, count: int) -> list[int | BaseException]:
        """Have the numbers below *count* written, as if all came at the same moment."""
        writing = asyncio.gather(
            *(self.share(number) for number in range(count)), return_exceptions=True
        )
        for _ in range(3):
            await asyncio.sleep(0)
        self.open.set()
        return await writing

    async def _write(self, jobs: Sequence[int]) -> list[int]:
        self.groups.append(list(jobs))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open.wait()
            for job in jobs:
                if job in self.bad:
                    raise self.bad[job]
            return [2 * job for job in jobs]
        finally:
            self.at_once -= 1


async def test_the_first_goes_at_once_and_the_rest_together() -> None:
    writer = Writer()
    writing = asyncio.gather(*(writer.share(number) for number in range(5)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert writer.groups == [[0]]
    writer.open.set()
    assert await writing == [0, 2, 4, 6, 8]
    assert writer.groups == [[0], [1, 2, 3, 4]]


async def test_no_group_and_no_number_of_calls_goes_over_its_bound() -> None:
    writer = Writer(lanes=2, most=3)
    assert await writer.all(20) == [2 * number for number in range(20)]
    assert max(map(len, writer.groups)) == 3
    assert writer.most_at_once == 2


async def test_one_that_is_at_fault_alone_spoils_nobody_elses() -> None:
    writer = Writer()
    writer.bad[3] = Alone()
    results = await writer.all(5)
    assert [result for result in results if isinstance(result, int)] == [0, 2, 4, 8]
    assert isinstance(results[3], Alone)


async def test_any_other_error_is_everybodys() -> None:
    writer = Writer()
    writer.bad[3] = OSError()
    results = await writer.all(5)
    assert [isinstance(result, OSError) for result in results] == [False, True, True, True, True]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_whoever_comes_as_the_last_one_goes_is_not_forgotten(lanes: int) -> None:
    writer = Writer(lanes=lanes)
    writer.open.set()

    async def again_and_again(number: int) -> None:
        for _ in range(50):
            await writer.share(number)

    async with asyncio.timeout(60):
        await asyncio.gather(*(again_and_again(number) for number in range(7)))


async def test_a_job_whose_asker_has_gone_harms_nobody() -> None:
    writer = Writer()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(writer.share(number)) for number in range(4)]
        await asyncio.sleep(0)
        for gone in (tasks[0], tasks[2]):
            gone.cancel()
        await asyncio.sleep(0)
        writer.open.set()
    assert [task.result() for task in tasks if not task.cancelled()] == [2, 6]


async def test_those_who_were_told_together_come_back_together() -> None:
    writer = Writer()
    await writer.all(3)

    async def again(number: int) -> None:
        for _ in range(10):
            await writer.share(number)

    await asyncio.gather(*(again(number) for number in range(3)))
    assert [len(group) for group in writer.groups[2:]] == [3] * 10


async def test_one_who_was_alone_for_long_goes_without_detour() -> None:
    writer = Writer()
    writer.open.set()
    for number in range(3):
        await writer.share(number)
    assert writer.groups == [[0], [1], [2]]
