"""What the reconciler asks for, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from ccfd.handlers.reconcile import Reconciler
from ccfd.handlers.reconcile_events import RemoveOrphans, RepairSlice, repairs
from ccfd.model import names
from ccfd.settings import Reconcile
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.intake import Intake
from tests.harness import AMPLE, Harness
from tests.twins import GuardsTwin, LookTwin
from tests.unit.handlers.test_slice_story import VM


class Sweep:
    """A reconciler over a harness."""

    def __init__(self, harness: Harness, *, grace: float = 60.0) -> None:
        self.harness = harness
        self.counted: list[str] = []
        ours = repairs(harness.settings, self.counted.append)
        harness.handlers.update(ours)
        self.look = LookTwin(harness.world)
        self.guards = GuardsTwin(harness.world)
        self.reconciler = Reconciler(
            harness.settings.model_copy(update={"reconcile": Reconcile(grace=grace)}),
            harness.database,
            Intake(harness.handlers, lambda _kind, _code: None),
            self.look,
            guards=self.guards,
            leads=lambda: True,
        )

    async def apply(self) -> dict[str, Any]:
        """Apply; return what differed once all requests have ended."""
        done = await self.reconciler.apply()
        await self.ended(done["requests"])
        return done

    async def ended(self, requests: Iterable[str]) -> None:
        """Wait until they have ended, and whoever counts has been told: a moment after that."""
        for one in requests:
            await self.harness.terminal(one)
        stored = select(func.count()).where(tables.request.c.terminal.is_not(None))
        async with asyncio.timeout(AMPLE), self.harness.database.read() as transaction:
            while len(self.harness.ended) < await transaction.scalar(stored):
                await asyncio.sleep(0.002)

    async def round(self) -> int:
        """Sweep once; return how many repairs were ever asked for, when all have ended."""
        await self.reconciler.round()
        request = tables.request.c
        kinds = (RepairSlice.event, RemoveOrphans.event)
        asked = await self.harness.database.run(
            lambda tx: tx.all(select(request.request_id).where(request.type.in_(kinds)))
        )
        await self.ended(row.request_id for row in asked)
        return len(asked)

    def pass_time(self, seconds: float) -> None:
        """Let each orphan have been seen so much earlier."""
        first_seen = self.reconciler._orphans
        self.reconciler._orphans = {one: then - seconds for one, then in first_seen.items()}

    async def notices(self) -> list[tuple[str, str]]:
        said = await self.harness.said()
        return [(body["kind"], body["host"]) for key, body in said if key == "reconcile.repaired"]


@pytest.fixture
async def sweep(harness: Harness) -> AsyncIterator[Sweep]:
    """A slice with a VM on each host, and its reconciler."""
    async with harness.running():
        await harness.ask(
            "slice.create", slice="demo", gateway=False, vms=[{"name": name, **VM} for name in "ab"]
        )
        yield Sweep(harness)


async def test_a_vm_gets_its_bandwidth_back(sweep: Sweep) -> None:
    limited = {"name": "c", **VM, "host": "h1", "bandwidth": 5}
    made = await sweep.harness.ask("vm.create", slice="demo", **limited)
    tap, guard = names.tap(made["result"]["vm"]), sweep.harness.world.guards["h1"]
    assert (await sweep.apply())["repairs"] == []
    for other in (None, 6):
        guard[tap] = replace(guard[tap], bandwidth=other)
        (repair,) = (await sweep.apply())["repairs"]
        assert repair["why"] == f"port {tap} has another bandwidth"
        assert guard[tap].bandwidth == 5


async def test_all_that_a_slice_lost_is_put_back(sweep: Sweep) -> None:
    world = sweep.harness.world
    before = copy(world.bridges), set(world.dhcp), copy(world.domains)
    assert (await sweep.apply())["repairs"] == []
    for lost in (world.bridges, world.owners, world.dhcp, world.namespaces, world.domains):
        lost.clear()
    await sweep.apply()
    assert (world.bridges, set(world.dhcp), world.domains) == before
    told = await sweep.notices()
    assert sorted(kind for kind, _ in told) == sorted(sweep.counted)
    assert set(told) == {
        ("namespace", "node"),
        ("dhcp", "node"),
        ("bridge", "node"),
        ("bridge", "h1"),
        ("bridge", "h2"),
        ("domain", "h1"),
        ("domain", "h2"),
    }
    assert (await sweep.apply())["repairs"] == []


async def test_what_a_slice_left_is_removed_after_its_time(harness: Harness) -> None:
    world = harness.world
    sweep = Sweep(harness, grace=1000.0)
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
        kept = copy(world)
        kept.bridges, kept.owners = copy(world.bridges), copy(world.owners)
        kept.abouts, kept.domains = copy(world.abouts), copy(world.domains)
        kept.disks = copy(world.disks)
        assert (await harness.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
        world.bridges, world.owners, world.abouts = kept.bridges, kept.owners, kept.abouts
        world.domains, world.disks = kept.domains, kept.disks
        assert await sweep.round() == 0
        assert world.leftovers() != {}
        sweep.pass_time(1000.0)
        assert await sweep.round() > 0
        assert world.leftovers() == {}


async def test_an_orphan_that_is_left_anew_has_a_time_of_its_own(harness: Harness) -> None:
    world = harness.world
    # Far more than this test takes, so that only the time passes that it lets pass.
    sweep = Sweep(harness, grace=1000.0)
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
        kept = copy(world.disks)
        assert (await harness.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
        for removed in (0, 1):
            world.disks = copy(kept)
            assert await sweep.round() == removed, "first seen now"
            sweep.pass_time(500.0)
            assert await sweep.round() == removed, "early"
            assert world.disks == kept
            sweep.pass_time(500.0)
            assert await sweep.round() == removed + 1
            assert world.disks == {}


async def test_what_this_database_has_never_known_is_left_to_a_person(sweep: Sweep) -> None:
    """After the loss of a database all that hosts hold looks like orphans."""
    harness = sweep.harness

    async def lose(transaction: Transaction) -> None:
        for table in reversed(tables.metadata.sorted_tables):
            if table.name in ("slice", "vm", "address", "subnet", "block", "request", "outbox"):
                await transaction.execute(delete(table))

    await harness.database.run(lose)
    patient = Sweep(harness, grace=0.0)
    for _ in range(3):
        await patient.reconciler.round()
    assert await harness.database.run(lambda tx: tx.all(select(tables.request))) == []
    assert harness.world.domains
    removed = await patient.apply()
    assert removed["requests"]
    assert harness.world.leftovers() == {}


async def test_a_deletion_that_failed_is_finished(sweep: Sweep) -> None:
    harness = sweep.harness
    await harness.database.run(
        lambda tx: tx.execute(update(tables.slices).values(state="deleting"))
    )
    sweep.look.unseen.add("h2")
    assert (await sweep.apply())["requests"] == []
    sweep.look.unseen.clear()
    await sweep.apply()
    assert harness.world.leftovers() == {}


async def test_a_repair_that_fails_is_not_repeated_at_once(sweep: Sweep) -> None:
    async def trap(call: str, _args: object) -> None:
        if call == "dhcp.serve:before":
            raise OSError("the disk is full")

    harness = sweep.harness
    harness.world.dhcp.clear()
    harness.world.trap = trap
    await sweep.apply()
    assert harness.ended[-1] == ("slice.repair", "failed")
    assert await sweep.round() == 1, "that one"


async def test_what_guards_have_lost_is_planned_and_put_right_without_a_request(
    sweep: Sweep,
) -> None:
    world = sweep.harness.world
    assert (await sweep.reconciler.plan())["flows"] == []
    kept = set(world.flows)
    (lost,) = [at for at in kept if at[0] == "h1"]
    world.flows = kept - {lost} | {("h2", "nobody")}
    plan = await sweep.reconciler.plan()
    assert [(one["host"], one["vm"], one["slice"]) for one in plan["flows"]] == [
        (*lost, "demo"),
        ("h2", None, None),
    ]
    assert plan["repairs"] == []
    done = await sweep.apply()
    assert (done["flows"], done["requests"]) == (plan["flows"], [])
    assert world.flows == kept
    sweep.guards.unseen = {"h2"}
    assert (await sweep.reconciler.plan())["unseen"] == {"guard of h2": "no answer"}


async def test_flows_of_a_slice_that_is_worked_on_are_no_difference(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, vms=[{"name": "a", **VM}])
    harness.world.flows.clear()
    assert len((await sweep.reconciler.plan())["flows"]) == 1
    await harness.send("slice.update", slice="demo", description="later")
    assert (await sweep.reconciler.plan())["flows"] == []
