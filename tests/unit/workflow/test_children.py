"""A request that stores others, under other keys, and awaits them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, uuid5

import pytest
from pydantic import BaseModel

from ccfd.store.database import Transaction
from ccfd.workflow.handler import Child, Handler
from ccfd.workflow.steps import Steps, in_order
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import NOTHING, VM

SLICES = ("one", "two", "three")


class Body(BaseModel):
    """Which slices shall go."""

    slices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which slices go."""

    slices: tuple[str, ...]


class DeleteMany(Handler[Body, Plan]):
    """Delete several slices, each in its own order."""

    event: ClassVar[str] = "test.delete"
    body = Body
    plan = Plan

    async def key(self, body: Body, transaction: Transaction) -> str:
        """Return a key of its own."""
        return "test"

    async def decide(self, body: Body, transaction: Transaction) -> Plan:
        """Choose them all."""
        return Plan(body.slices)

    def children(self, plan: Plan) -> Sequence[Child]:
        """Have each deleted."""
        return [
            Child(str(uuid5(NAMESPACE_OID, name)), "slice.delete", {"slice": name})
            for name in plan.slices
        ]

    def steps(self, plan: Plan) -> Steps:
        """Have none."""
        return in_order()

    async def settle(
        self, plan: Plan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Name them."""
        return {"slices": list(plan.slices)}

    async def forget(
        self, plan: Plan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Add nothing."""
        return {}


@pytest.fixture
async def many(harness: Harness) -> Harness:
    handler = DeleteMany()
    harness.handlers[handler.event] = handler
    async with harness.running():
        for name in SLICES:
            vms = [{"name": "a", **VM}]
            made = await harness.ask("slice.create", slice=name, gateway=False, vms=vms)
            assert made["outcome"] == "succeeded", made
    harness.engine = harness.fresh_engine()
    return harness


async def test_it_ends_after_all_of_its_children(many: Harness) -> None:
    async with many.running():
        ended = await many.ask("test.delete", slices=SLICES)
    assert ended["result"] == {"slices": list(SLICES)}
    keys = [key for key, _ in await many.said()]
    assert keys.count("slice.delete.succeeded") == len(SLICES)
    assert keys[-1] == "test.delete.succeeded"
    assert await many.claims() == NOTHING


async def test_a_child_that_fails_fails_it_with_its_error(many: Harness) -> None:
    async with many.running():
        ended = await many.ask("test.delete", slices=("one", "nowhere"))
    assert ended["outcome"] == "failed"
    assert ended["error"]["code"] == "slice_not_found"
    assert ended["compensated"] is False, "one slice is gone"


async def test_where_no_child_did_anything_nothing_remains_of_it(many: Harness) -> None:
    async with many.running():
        ended = await many.ask("test.delete", slices=("nowhere", "neither"))
    assert (ended["error"]["code"], ended["compensated"]) == ("slice_not_found", True)


async def test_children_wait_their_turn_in_their_own_slice(many: Harness) -> None:
    held = Held(many, "disks.make:before")
    async with many.running():
        grown = await many.send("vm.create", slice="one", name="b", **VM)
        await held.reached.wait()
        asked = await many.send("test.delete", slices=("one",))
        while ("slice.delete.accepted", "one") not in await slices_of(many):
            await asyncio.sleep(0.01)
        held.release.set()
        assert (await many.terminal(asked))["outcome"] == "succeeded"
        # A deletion cancels what is under way in its slice, as one that a portal sends.
        assert (await many.terminal(grown))["error"]["code"] == "cancelled"
    assert [one for one in await slices_of(many) if one[1] == "one"][-2:] == [
        ("vm.create.failed", "one"),
        ("slice.delete.succeeded", "one"),
    ]


async def test_awaiting_takes_no_place_and_outlives_the_daemon(many: Harness) -> None:
    held = Held(many, "domains.destroy:before")
    asked = await many.send("test.delete", slices=SLICES)
    many.engine._concurrency = 1  # parent and children would need four
    async with many.running():
        await held.reached.wait()
        many.engine.stop()
        held.release.set()
    many.engine = many.fresh_engine()
    many.engine._concurrency = 1
    async with many.running():
        assert (await many.terminal(asked))["outcome"] == "succeeded"


async def test_cancelling_it_cancels_the_children_that_can_be(many: Harness) -> None:
    held = Held(many, "domains.destroy:before")
    asked = await many.send("test.delete", slices=("one", "two"))
    many.engine._concurrency = 1
    async with many.running():
        await held.reached.wait()  # "one" only goes forward by now, "two" waits
        await many.interventions.cancel(asked)
        held.release.set()
        ended = await many.terminal(asked)
    assert (ended["outcome"], ended["error"]["code"]) == ("failed", "cancelled")
    assert ("slice.delete.succeeded", "one") in await slices_of(many)
    assert ("slice.delete.failed", "two") in await slices_of(many)


class Held:
    """Holds the first call of a name until it is released."""

    def __init__(self, harness: Harness, call: str) -> None:
        self.reached, self.release = asyncio.Event(), asyncio.Event()
        self._call = call
        harness.world.trap = self._trap

    async def _trap(self, call: str, _args: Any) -> None:
        if call == self._call:
            self.reached.set()
            await self.release.wait()


async def slices_of(harness: Harness) -> list[tuple[str, str]]:
    """Return each message so far, with the slice that it is about."""
    return [(key, body.get("slice", "")) for key, body in await harness.said()]
