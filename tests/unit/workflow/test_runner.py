"""What a workflow does when steps fail, are slow, or cannot be undone."""

import asyncio
import time
from random import Random
from typing import Any

import pytest

from ccfd.errors import Refused, Transient
from ccfd.store.database import utc_now
from ccfd.workflow.journal import Journal
from ccfd.workflow.records import Flow, LostError
from ccfd.workflow.results import Asked
from ccfd.workflow.runner import Runner
from ccfd.workflow.steps import Effect, Step, in_order
from tests.harness import AMPLE, Harness, Watched
from tests.unit.handlers.test_slice_story import NOTHING, VM

CREATE: dict[str, Any] = {"slice": "demo", "gateway": False, "vms": [{"name": "a", **VM}]}


async def test_a_passing_error_is_tried_again(harness: Harness) -> None:
    failures = [Transient("host_unreachable", "libvirtd restarts", retry_in=0.001)] * 3
    starts: list[str] = []

    async def trap(call: str, _args: Any) -> None:
        if call in ("fabric.plug:after", "domains.boot:before"):
            starts.append(call)
        if call == "domains.boot:before" and failures:
            raise failures.pop()

    harness.world.trap = trap
    harness.runner._retries = 5  # the harness retries nothing by default
    async with harness.running():
        made = await harness.ask("slice.create", **CREATE)
    assert made["outcome"] == "succeeded"
    assert harness.watched.steps.count(("boot", "retrying")) == 3
    # The tap of an attempt that failed is gone: the switch must be told before the next.
    assert starts == ["fabric.plug:after", "domains.boot:before"] * 4


async def test_a_refusal_is_undone_at_once_in_reverse(harness: Harness) -> None:
    async def trap(call: str, _args: Any) -> None:
        if call == "domains.boot:before":
            raise Refused("hypervisor_error", "no more memory")

    harness.world.trap = trap
    async with harness.running():
        made = await harness.ask("slice.create", **CREATE)
    assert made["error"]["code"] == "hypervisor_error"
    assert made["compensated"] is True
    undone = [name for name, status in harness.watched.steps if status == "undone"]
    assert undone[0] == "boot"
    assert set(undone[1:4]) == {"make-bridge", "serve-dhcp", "make-disk"}
    assert set(undone[4:]) == {"make-bridge", "open-namespace"}
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_step_over_its_deadline_fails_with_timeout(harness: Harness) -> None:
    deadline = harness.runner._deadline

    async def trap(call: str, _args: Any) -> None:
        if call != "dhcp.serve:before":
            return
        # Its time is over at once; all the others', and its undo's, never is.
        me = asyncio.current_task()
        (mine,) = (watch for watch in deadline.watched if watch._task is me)
        mine.break_off()
        await asyncio.sleep(3600)

    harness.world.trap = trap
    async with harness.running():
        made = await harness.ask("slice.create", **CREATE)
    assert made["error"]["code"] == "timeout"
    assert harness.world.leftovers() == {}


async def test_an_undo_that_cannot_be_done_is_stuck_and_keeps_its_claims(
    harness: Harness,
) -> None:
    async def trap(call: str, _args: Any) -> None:
        if call in {"domains.boot:before", "disks.remove:before"}:
            raise Refused("hypervisor_error", "the pool is read-only")

    harness.world.trap = trap
    async with harness.running():
        made = await harness.ask("slice.create", **CREATE)
        assert made["outcome"] == "failed"
        assert made["compensated"] is False
        assert (await harness.claims())["cpu"] == 1

        async def heal(_call: str, _args: Any) -> None:
            return None

        harness.world.trap = heal
        gone = await harness.ask("slice.delete", slice="demo")
        assert gone["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_deletion_that_fails_keeps_the_slice_deleting_until_it_is_repeated(
    harness: Harness,
) -> None:
    async with harness.running():
        await harness.ask("slice.create", **CREATE)

        async def trap(call: str, _args: Any) -> None:
            if call == "domains.destroy:before":
                raise Transient("host_unreachable", "h1 is down")

        async def heal(_call: str, _args: Any) -> None:
            return None

        harness.world.trap = trap
        failed = await harness.ask("slice.delete", slice="demo")
        assert failed["error"]["code"] == "host_unreachable"
        assert failed["compensated"] is False
        assert (await harness.claims())["cpu"] == 1
        harness.world.trap = heal
        assert (await harness.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_defect_in_a_step_is_undone_and_named(harness: Harness) -> None:
    async def trap(call: str, _args: Any) -> None:
        if call == "domains.boot:before":
            raise ZeroDivisionError

    harness.world.trap = trap
    async with harness.running():
        made = await harness.ask("slice.create", **CREATE)
    assert made["error"]["code"] == "internal"
    assert harness.world.leftovers() == {}


async def test_deleting_a_slice_cancels_its_creation(harness: Harness) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def trap(call: str, _args: Any) -> None:
        if call == "fabric.make:before":
            reached.set()
            await go_on.wait()

    harness.world.trap = trap
    async with harness.running():
        creation = await harness.send("slice.create", **CREATE)
        await reached.wait()
        later = await harness.send("vm.create", slice="demo", **VM)
        deletion = await harness.send("slice.delete", slice="demo")
        go_on.set()
        for request in (creation, later):
            ended = await harness.terminal(request)
            assert ended["error"]["code"] == "cancelled"
            assert ended["compensated"] is True
        assert (await harness.terminal(deletion))["outcome"] == "succeeded"
        again = await harness.ask("slice.delete", slice="demo")
        assert again["error"]["code"] == "slice_not_found"
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_requests_for_one_slice_run_in_stored_order(harness: Harness) -> None:
    async with harness.running():
        sent = [await harness.send("slice.create", **CREATE)]
        sent += [
            await harness.send("vm.create", slice="demo", name=f"n{number}", **VM)
            for number in range(5)
        ]
        for request in sent:
            assert (await harness.terminal(request))["outcome"] == "succeeded"
    ended = [body["request_id"] for key, body in await harness.said() if "succeeded" in key]
    assert ended == sent


async def test_different_slices_run_side_by_side(harness: Harness) -> None:
    inside: set[str] = set()
    met = asyncio.Event()

    async def trap(call: str, args: Any) -> None:
        if call == "domains.boot:before":
            inside.add(args.slice)
            if len(inside) > 1:
                met.set()
            async with asyncio.timeout(AMPLE):
                await met.wait()

    harness.world.trap = trap
    async with harness.running():
        sent = [
            await harness.send("slice.create", **{**CREATE, "slice": f"s{n}"}) for n in range(6)
        ]
        made = [await harness.terminal(request) for request in sent]
    assert {one["outcome"] for one in made} == {"succeeded"}
    assert len({one["result"]["subnet"] for one in made}) == 6
    assert len({one["result"]["vni"] for one in made}) == 6


class Stage:
    """One stage of three steps, of which number 0 loses its lease when it is told to."""

    def __init__(self) -> None:
        self.tell = asyncio.Event()
        self.under_way: set[int] = set()
        self.ended: set[int] = set()
        self._is_held = True
        steps = in_order(tuple(Step("wait", {"number": number}) for number in range(3)))
        self.flow = Flow(
            Asked(
                request_id="r",
                type="t",
                key="k",
                workflow_id="w",
                correlation_id="c",
                reply_to=None,
                traceparent=None,
                terminal_message_id="m",
            ),
            utc_now(),
            None,  # type: ignore[arg-type]  # nothing is settled
            {},
            steps,
            Journal.fresh(steps),
            seq=1,
            owner="me",
            epoch=1,
        )
        self.runner = Runner(
            {"wait": Effect(dict, self._wait, None)},
            None,  # type: ignore[arg-type]  # nothing is recorded
            Watched(),
            held=lambda: self._is_held,
            step_timeout=60.0,
            retries=3,
            clock=time.time,
            random=Random(1),
        )

    async def _wait(self, args: dict[str, int]) -> None:
        self.under_way.add(args["number"])
        try:
            await self.tell.wait()
            if args["number"]:
                await asyncio.Event().wait()
            self._is_held = False
            raise Transient("host_unreachable", "and nobody may ask it again", retry_in=0.0)
        finally:
            self.ended.add(args["number"])

    async def run(self) -> None:
        """Carry it out, as far as that goes."""
        await self.runner.act(self.flow)
        await self.runner.end(self.flow)

    async def begun(self) -> None:
        """Wait until every step is under way."""
        while len(self.under_way) < 3:
            await asyncio.sleep(0)


async def test_a_lost_lease_leaves_no_step_of_the_stage_behind() -> None:
    stage = Stage()

    async def lose() -> None:
        await stage.begun()
        stage.tell.set()

    async with asyncio.timeout(AMPLE), asyncio.TaskGroup() as group:
        group.create_task(lose())
        with pytest.raises(LostError):
            await stage.run()
    assert stage.ended == {0, 1, 2}


async def test_a_workflow_that_is_stopped_stops_every_step_of_its_stage() -> None:
    stage = Stage()
    async with asyncio.timeout(AMPLE), asyncio.TaskGroup() as group:
        running = group.create_task(stage.run())
        await stage.begun()
        running.cancel()
    assert running.cancelled()
    assert stage.ended == {0, 1, 2}
