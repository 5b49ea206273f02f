"""A VM's state follows what its host tells, once, and never against a request at work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ccfd.documents import COLLECTIONS
from ccfd.errors import Transient
from ccfd.handlers import vm_watch
from ccfd.handlers.reconcile_events import repairs
from ccfd.handlers.vm_watch import VmWatch
from ccfd.vt.domains import Found
from ccfd.workflow.intake import Intake
from tests.harness import AMPLE, Harness
from tests.twins import LookTwin, no_trap
from tests.unit.handlers.test_slice_story import VM


class Seen(LookTwin):
    """Looks at a world's domains; `troubles` is how often the host does not answer first."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness.world)
        self.troubles = 0
        self.looks = 0

    async def inventory(self, host: str) -> tuple[Found, ...]:
        self.looks += 1
        if self.troubles:
            self.troubles -= 1
            raise Transient("host_unreachable", "it does not answer")
        return await super().inventory(host)


class Watched:
    """A slice with the VM `vm` on h1, its states watched by `daemons` daemons."""

    def __init__(self, harness: Harness, vm: str, daemons: int = 2) -> None:
        self.harness = harness
        self.vm = vm
        self.seen = Seen(harness)
        harness.handlers.update(repairs(harness.settings, lambda _kind: None))
        own = Intake(harness.handlers, lambda _kind, _code: None)
        self.watches = [
            VmWatch(harness.settings, harness.database, own, self.seen) for _ in range(daemons)
        ]

    def destroy(self) -> None:
        """Be the person with virsh."""
        del self.harness.world.domains["h1", self.vm]
        self.harness.world.reasons[self.vm] = "destroyed"

    def tell(self) -> None:
        for watch in self.watches:
            watch.changed("h1", self.vm)

    async def state(self) -> str:
        async with self.harness.database.read() as transaction:
            found = await COLLECTIONS["vms"].one(self.vm, transaction)
        state: str = found["state"]
        return state

    async def until(self, state: str) -> None:
        async with asyncio.timeout(AMPLE):
            while await self.state() != state:
                await asyncio.sleep(0.005)

    async def notices(self) -> list[tuple[str, str, str]]:
        said = await self.harness.said()
        return [
            (body["from"], body["to"], body["reason"])
            for key, body in said
            if key == "vm.state_changed"
        ]


@pytest.fixture
async def watched(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(vm_watch, "AGAIN", 0.01)
    monkeypatch.setattr(vm_watch, "PAUSE", 0.01)
    async with harness.running():
        made = await harness.ask(
            "slice.create", slice="demo", gateway=False, vms=[{"name": "a", "host": "h1", **VM}]
        )
        yield Watched(harness, made["result"]["vms"][0]["vm"])


async def at_work(watched: Watched, act: Callable[[], Awaitable[None]]) -> None:
    """Have the watches run while *act* does."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch.run()) for watch in watched.watches]
        await act()
        for task in tasks:
            task.cancel()


async def test_a_change_by_somebody_else_is_stored_and_told_once(watched: Watched) -> None:
    async def act() -> None:
        watched.harness.world.paused.add(("h1", watched.vm))
        watched.tell()
        await watched.until("paused")
        watched.destroy()
        watched.tell()
        await watched.until("shutoff")
        watched.tell()

    await at_work(watched, act)
    assert await watched.notices() == [
        ("running", "paused", "observed"),
        ("paused", "shutoff", "destroyed"),
    ]


async def test_what_was_missed_is_found_when_the_host_answers_again(watched: Watched) -> None:
    watched.seen.troubles = 3

    async def act() -> None:
        watched.destroy()
        watched.watches[0].missed("h1")
        await watched.until("shutoff")

    await at_work(watched, act)
    assert watched.seen.looks == 4


async def test_a_request_at_work_is_waited_for(watched: Watched) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold(call: str, args: Any) -> None:
        await no_trap(call, args)
        if call == "domains.boot:after":
            reached.set()
            await go_on.wait()

    async def act() -> None:
        watched.harness.world.trap = hold
        request = await watched.harness.send("vm.reboot", vm=watched.vm)
        await reached.wait()
        watched.destroy()
        watched.tell()
        await asyncio.sleep(0.05)
        assert await watched.state() == "running"
        go_on.set()
        # What the request has seen is out of date by then, and put right.
        assert (await watched.harness.terminal(request))["result"]["state"] == "running"
        await watched.until("shutoff")

    await at_work(watched, act)
    assert await watched.notices() == [("running", "shutoff", "destroyed")]


async def test_one_that_somebody_has_started_is_plugged_in_once(watched: Watched) -> None:
    world = watched.harness.world
    made: list[str] = []

    async def note(call: str, args: Any) -> None:
        await no_trap(call, args)
        if call == "fabric.make:after":
            made.append(args.host)

    async def act() -> None:
        machine = world.domains["h1", watched.vm]
        watched.destroy()
        watched.tell()
        await watched.until("shutoff")
        world.trap = note
        world.domains["h1", watched.vm] = machine
        watched.tell()
        await watched.until("running")
        async with asyncio.timeout(AMPLE):
            while not made:
                await asyncio.sleep(0.005)
        watched.tell()
        await asyncio.sleep(0.05)

    await at_work(watched, act)
    assert made == ["h1"]
    assert len(await watched.notices()) == 2


async def test_what_a_host_does_by_itself_is_left_to_the_sweep(watched: Watched) -> None:
    async def act() -> None:
        del watched.harness.world.domains["h1", watched.vm]
        watched.harness.world.reasons[watched.vm] = "unknown"
        watched.tell()
        await asyncio.sleep(0.05)

    await at_work(watched, act)
    assert await watched.state() == "running"
    assert await watched.notices() == []
