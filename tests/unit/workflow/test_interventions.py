"""What a person can do about a request that waits, runs, or is stuck."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from ccfd.errors import Refused
from ccfd.store import tables
from tests.harness import AMPLE, Harness
from tests.unit.handlers.test_slice_story import NOTHING, VM

CREATE: dict[str, Any] = {"slice": "demo", "gateway": False, "vms": [{"name": "a", **VM}]}


async def state(harness: Harness, request_id: str) -> str:
    async with harness.database.read() as transaction:
        found: str = await transaction.scalar(
            select(tables.request.c.state).where(tables.request.c.request_id == request_id)
        )
    return found


async def ended(harness: Harness, request_id: str) -> None:
    async with asyncio.timeout(AMPLE):
        while await state(harness, request_id) not in ("failed", "succeeded"):
            await asyncio.sleep(0.005)


async def stick(harness: Harness) -> str:
    """Make a creation whose undo cannot be done."""

    async def trap(call: str, _args: Any) -> None:
        if call in {"domains.boot:before", "disks.remove:before"}:
            raise Refused("hypervisor_error", "the pool is read-only")

    harness.world.trap = trap
    request = await harness.send("slice.create", **CREATE)
    terminal = await harness.terminal(request)
    assert terminal["compensated"] is False
    assert await state(harness, request) == "stuck"
    return request


async def heal(_call: str, _args: Any) -> None:
    await asyncio.sleep(0)


async def test_a_stuck_undo_is_tried_again_and_answers_nobody_twice(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        harness.world.trap = heal
        await harness.interventions.retry(request)
        await ended(harness, request)
        said = [key for key, body in await harness.said() if body.get("request_id") == request]
        assert said == ["slice.create.accepted", "slice.create.failed"]
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_retry_that_fails_is_stuck_again(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        await harness.interventions.retry(request)
        async with asyncio.timeout(AMPLE):
            while await state(harness, request) != "stuck":
                await asyncio.sleep(0.005)
        assert (await harness.claims())["cpu"] == 1


async def test_a_stuck_request_that_is_given_up_frees_its_claims(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        await harness.interventions.abandon(request)
        assert await state(harness, request) == "failed"
    assert await harness.claims() == NOTHING


async def test_deleting_the_slice_closes_what_was_stuck(harness: Harness) -> None:
    async with harness.running():
        request = await stick(harness)
        harness.world.trap = heal
        assert (await harness.ask("slice.delete", slice="demo"))["outcome"] == "succeeded"
        assert await state(harness, request) == "failed"
        with pytest.raises(Refused, match="not stuck"):
            await harness.interventions.retry(request)
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_deleting_the_vm_closes_its_stuck_creation(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)

        async def trap(call: str, _args: Any) -> None:
            if call in {"domains.boot:before", "disks.remove:before"}:
                raise Refused("hypervisor_error", "the pool is read-only")

        harness.world.trap = trap
        request = await harness.send("vm.create", slice="demo", **VM)
        await harness.terminal(request)
        assert await state(harness, request) == "stuck"
        harness.world.trap = heal
        async with harness.database.read() as transaction:
            vm = await transaction.scalar(select(tables.vm.c.id))
        assert (await harness.ask("vm.delete", vm=vm))["outcome"] == "succeeded"
        assert await state(harness, request) == "failed"
        await harness.ask("slice.delete", slice="demo")
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_a_running_request_is_cancelled_and_undone(harness: Harness) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def trap(call: str, _args: Any) -> None:
        if call == "fabric.make:before":
            reached.set()
            await go_on.wait()

    harness.world.trap = trap
    async with harness.running():
        request = await harness.send("slice.create", **CREATE)
        await reached.wait()
        waits = await harness.send("subnet.create", owner="demo")
        await harness.interventions.cancel(waits)
        await harness.interventions.cancel(request)
        go_on.set()
        for one in (request, waits):
            terminal = await harness.terminal(one)
            assert terminal["error"]["code"] == "cancelled"
            assert terminal["compensated"] is True
        with pytest.raises(Refused, match="nothing to cancel"):
            await harness.interventions.cancel(request)
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING


async def test_what_only_goes_forward_cannot_be_cancelled(harness: Harness) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def trap(call: str, _args: Any) -> None:
        if call == "domains.destroy:before":
            reached.set()
            await go_on.wait()

    async with harness.running():
        await harness.ask("slice.create", **CREATE)
        harness.world.trap = trap
        request = await harness.send("slice.delete", slice="demo")
        await reached.wait()
        with pytest.raises(Refused, match="only goes forward"):
            await harness.interventions.cancel(request)
        go_on.set()
        assert (await harness.terminal(request))["outcome"] == "succeeded"


async def test_an_unknown_request_is_named(harness: Harness) -> None:
    with pytest.raises(Refused, match="there is no request"):
        await harness.interventions.cancel("nope")


async def said_of(harness: Harness, request: str) -> list[str]:
    return [key for key, body in await harness.said() if body.get("request_id") == request]


async def test_what_a_defect_broke_off_is_undone_and_not_done(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defective(*_: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    handler = harness.handlers["slice.create"]
    with capture_logs():
        async with harness.running():
            monkeypatch.setattr(handler, "settle", defective)
            request = await harness.send("slice.create", **CREATE)
            assert (await harness.terminal(request))["error"]["code"] == "internal"
            assert await state(harness, request) == "stuck"
            monkeypatch.undo()  # as by a new release
            await harness.interventions.retry(request)
            await ended(harness, request)
            assert await state(harness, request) == "failed"
            assert await said_of(harness, request) == [
                "slice.create.accepted",
                "slice.create.failed",
            ]
    assert harness.world.leftovers() == {}
    assert await harness.claims() == NOTHING
