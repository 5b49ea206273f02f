"""What is stuck is tried again by itself, seldom, and answers nobody twice."""

import asyncio

from ccfd.workflow.revisit import MOST, Revisits
from tests.harness import AMPLE, Harness
from tests.unit.handlers.test_slice_story import NOTHING
from tests.unit.workflow.test_interventions import CREATE, ended, heal, said_of, state, stick

FIRST = 300.0


class Rounds:
    """Revisits over a harness, on a clock that a test turns."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.now = 0.0
        self.leads = True
        self.revisits = Revisits(
            harness.database,
            harness.interventions,
            lambda: self.leads,
            first=FIRST,
            clock=lambda: self.now,
        )

    def undone(self) -> int:
        """Count how often the undo that fails was begun."""
        return self.harness.watched.steps.count(("make-disk", "undoing"))

    async def after(self, seconds: float) -> bool:
        """Look so much later; tell whether the undo was tried once more, and failed."""
        before = self.undone()
        self.now += seconds
        await self.revisits.round()
        (request,) = self.revisits._visits
        async with asyncio.timeout(AMPLE):
            while await state(self.harness, request) != "stuck":
                await asyncio.sleep(0.005)
        return self.undone() > before


async def test_the_pauses_grow_to_a_bound(harness: Harness) -> None:
    async with harness.running():
        await stick(harness)
        rounds = Rounds(harness)
        assert not await rounds.after(0)
        pause = FIRST
        for _ in range(6):
            assert not await rounds.after(pause - 1), "too early"
            assert await rounds.after(1)
            pause = min(2 * pause, MOST * FIRST)
        assert pause == MOST * FIRST


async def test_when_it_can_be_done_nothing_is_left_and_nothing_more_is_said(
    harness: Harness,
) -> None:
    async with harness.running():
        request = await stick(harness)
        rounds = Rounds(harness)
        await rounds.after(0)
        harness.world.trap = heal
        rounds.now = FIRST
        await rounds.revisits.round()
        await ended(harness, request)
        assert await said_of(harness, request) == ["slice.create.accepted", "slice.create.failed"]
        await rounds.revisits.round()
        assert rounds.revisits._visits == {}
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_it_waits_for_what_runs_in_its_slice(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        rounds = Rounds(harness)
        await rounds.after(0)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hold(call: str, _args: object) -> None:
            if call == "domains.destroy:before":
                reached.set()
                await go_on.wait()

        harness.world.trap = hold
        deletion = await harness.send("slice.delete", slice=CREATE["slice"])
        await reached.wait()
        rounds.now = 2 * FIRST
        await rounds.revisits.round()
        assert await state(harness, request) == "stuck"
        go_on.set()
        assert (await harness.terminal(deletion))["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}


async def test_only_the_daemon_that_leads_does_it(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        rounds = Rounds(harness)
        await rounds.after(0)
        rounds.leads, rounds.now = False, 2 * FIRST
        await rounds.revisits.round()
        assert await state(harness, request) == "stuck"
        rounds.leads = True
        assert not await rounds.after(0), "one that takes over begins with a pause"
