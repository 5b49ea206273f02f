"""Several ccfd on one PostgreSQL: what one leaves, another takes over, and nothing twice."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from sqlalchemy import update

from ccfd.handlers.timers import POLL
from ccfd.store import tables
from ccfd.store.database import DatabaseAway, Transaction
from ccfd.store.tables import slices
from ccfd.workflow.lease import LEASE
from tests.harness import AMPLE, Harness
from tests.unit.handlers.test_slice_story import NOTHING, VM

CROSSED = (("h1", "h2"), ("h2", "h1"))
CREATE: dict[str, Any] = {"slice": "demo", "gateway": False, "vms": [{"name": "a", **VM}]}


class Gate:
    """Holds every call of one kind until it is opened, and counts the calls."""

    def __init__(self, call: str) -> None:
        self._call = call
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.passed = 0

    async def __call__(self, call: str, _args: Any) -> None:
        if call == self._call:
            self.reached.set()
            await self.opened.wait()
            self.passed += 1


def nowhere() -> NoReturn:
    """Stand in for a connection to a database that cannot be reached."""
    raise DatabaseAway("cut off by the test")


async def until(condition: Callable[[], bool], within: float = AMPLE) -> None:
    """Wait until *condition* holds, *within* seconds in which this process could run.

    Where the machine stands still, both daemons do, and nobody can keep a promise meanwhile.
    """
    left = within
    while not condition():
        assert left > 0, f"not within {within:g} s"
        before = time.monotonic()
        await asyncio.sleep(0.02)
        left -= min(time.monotonic() - before, 0.1)


async def hang_up(harness: Harness, _monkeypatch: pytest.MonkeyPatch) -> None:
    """End the session that holds the daemon's lock, as the death of its process does."""
    async with harness.database.connection() as connection:
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )


async def fall_silent(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give no more signs of life on a session that stands, as a frozen process does."""

    async def silent(_connection: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(harness.lease, "_renew", silent)


@pytest.mark.parametrize(("cut", "within"), [(hang_up, 3.0), (fall_silent, 10.0)])
async def test_a_daemon_that_is_cut_off_stops_and_another_finishes_its_work(
    pair: tuple[Harness, Harness],
    cut: Callable[[Harness, pytest.MonkeyPatch], Awaitable[None]],
    within: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = pair
    gate = Gate("domains.boot:before")
    one.world.trap = gate
    for daemon in pair:
        daemon.runner._deadline.seconds = 60
    async with one.running():
        request = await one.send("slice.create", **CREATE)
        await gate.reached.wait()
        mine = one.lease.id
        await cut(one, monkeypatch)
        monkeypatch.setattr(one.database, "connection", nowhere)
        began = time.monotonic()
        async with other.running():
            await until(lambda: bool(other.engine._tasks), within)
            print(f"taken over after {time.monotonic() - began:.2f} s")
            await until(lambda: not one.lease.held and not one.engine._tasks, LEASE + 2)
            gate.opened.set()
            assert (await other.terminal(request))["outcome"] == "succeeded"
            monkeypatch.undo()
            await until(lambda: one.lease.held)
            assert one.lease.id != mine
            gone = await other.ask("slice.delete", slice="demo")
            assert gone["outcome"] == "succeeded"
    assert len(one.world.boots) == 1
    assert one.world.leftovers() == {}
    assert await one.claims() == NOTHING


async def test_a_stale_daemon_can_record_nothing(pair: tuple[Harness, Harness]) -> None:
    one, other = pair
    gate = Gate("domains.boot:before")
    one.world.trap = gate
    async with one.running():
        request = await one.send("slice.create", **CREATE)
        await gate.reached.wait()
        # As if it had been frozen: others have buried it, and it does not know yet.
        async with one.database.connection() as connection:
            await connection.exec_driver_sql(f"DELETE FROM daemon WHERE id = '{one.lease.id}'")
            await connection.commit()
        async with other.running():
            await until(lambda: bool(other.engine._tasks))
            gate.opened.set()
            assert (await other.terminal(request))["outcome"] == "succeeded"
            said = [key for key, body in await other.said() if body.get("request_id") == request]
            assert said == ["slice.create.accepted", "slice.create.succeeded"]
            await other.ask("slice.delete", slice="demo")
    assert one.world.leftovers() == {}


async def test_a_reservation_expires_once(pair: tuple[Harness, Harness]) -> None:
    one, other = pair
    async with one.running(), other.running(), asyncio.TaskGroup() as group:
        timers = [group.create_task(each.timers().run()) for each in pair]
        made = await one.ask("subnet.create", owner="demo", timeout=1)
        assert made["outcome"] == "succeeded"
        async with asyncio.timeout(AMPLE):
            while not await expired(one):
                await asyncio.sleep(0.05)
        await asyncio.sleep(2 * POLL)  # the other has looked, too
        for task in timers:
            task.cancel()
    assert await expired(one) == ["demo"]


async def expired(harness: Harness) -> list[str]:
    """Say whose reservations are told to have expired."""
    return [body["owner"] for key, body in await harness.said() if key == "subnet.expired"]


async def test_a_slice_that_two_daemons_see_end_is_told_of_and_deleted_once(
    pair: tuple[Harness, Harness],
) -> None:
    one, other = pair
    async with one.running():
        await one.ask("slice.create", slice="demo", gateway=False)

        async def pass_time(transaction: Transaction) -> None:
            over = transaction.now - timedelta(seconds=1)
            await transaction.execute(update(slices).values(expires_at=over))

        await one.database.run(pass_time)
        looked, commits = asyncio.Event(), asyncio.Event()

        async def look_and_wait(transaction: Transaction) -> None:
            await one.timers().slices(transaction)
            looked.set()
            await commits.wait()

        async with asyncio.TaskGroup() as group:
            group.create_task(one.database.run(look_and_wait))
            await looked.wait()
            group.create_task(other.database.run(other.timers().slices))
            await asyncio.sleep(0.2)  # it is there, or waits for the first one's commit
            commits.set()
        async with asyncio.timeout(AMPLE):
            while await one.claims() != NOTHING:
                await asyncio.sleep(0.02)
    told = [key for key, _ in await one.said()]
    assert told.count("slice.expired") == 1
    assert told.count("slice.delete.succeeded") == 1


async def test_two_daemons_share_a_hundred_slices_and_do_none_twice(
    pair: tuple[Harness, Harness],
) -> None:
    one, other = pair
    async with one.running(), other.running():
        sent = [
            await pair[n % 2].send("slice.create", slice=f"s{n}", gateway=False) for n in range(60)
        ]
        made = [await one.terminal(request, 60) for request in sent]
        assert {body["outcome"] for body in made} == {"succeeded"}
        assert len({body["result"]["cidr"] for body in made}) == 60
        assert one.ended, "one has done some"
        assert other.ended, "and the other too"
        # They count when it is stored: a moment later.
        await until(lambda: len(one.ended) + len(other.ended) == 60)
        gone = [await one.send("slice.delete", slice=f"s{n}") for n in range(60)]
        assert {(await one.terminal(r, 60))["outcome"] for r in gone} == {"succeeded"}
    assert one.world.leftovers() == {}
    assert await one.claims() == NOTHING


async def test_daemons_that_place_at_once_fill_hosts_and_never_overfill_them(
    pair: tuple[Harness, Harness],
) -> None:
    one, other = pair
    room, asked = 8, 20
    small = update(tables.host).values(ram_limit=128 * room)
    await one.database.run(lambda transaction: transaction.execute(small))
    # Each wants a place on both hosts, half of them in the other order: who locked hosts in the
    # order of its VMs would meet the others in a deadlock.
    crossed = [[{"name": name, "host": name, **VM} for name in order] for order in CROSSED]
    async with one.running(), other.running():
        sent = [
            await pair[n % 2].send("slice.create", slice=f"s{n}", gateway=False, vms=crossed[n % 2])
            for n in range(asked)
        ]
        ended = [await one.terminal(request, 60) for request in sent]
        made = [body for body in ended if body["outcome"] == "succeeded"]
        assert len(made) == room
        codes = {body["error"]["code"] for body in ended if body not in made}
        assert codes == {"no_valid_host"}
        assert (await one.claims())["ram"] == 2 * 128 * room
        gone = [await one.send("slice.delete", slice=body["result"]["slice"]) for body in made]
        assert {(await one.terminal(r, 60))["outcome"] for r in gone} == {"succeeded"}
    assert one.world.leftovers() == {}
    assert await one.claims() == NOTHING
