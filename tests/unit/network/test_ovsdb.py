"""The client of Open vSwitch's database, against a server that misbehaves on demand."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccfd.errors import Refused, Transient
from ccfd.network.ovsdb import OperationError, Ovsdb
from tests.unit.network.fakes import FakeServer

OP = {"op": "comment", "comment": "x"}
SHORT = 0.05
"""Seconds that are meant to be over before what is waited for."""
AMPLE = 60.0
"""Seconds that are not, however busy the machine is."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeServer]:
    async with FakeServer(tmp_path / "db.sock").running() as server:
        yield server


@pytest.fixture
async def db(server: FakeServer) -> AsyncIterator[Ovsdb]:
    db = Ovsdb(server.address, timeout=AMPLE, probe=AMPLE)
    yield db
    await db.close()


async def until(true: Any) -> None:
    async with asyncio.timeout(AMPLE):
        while not true():
            await asyncio.sleep(0.001)


async def test_a_transaction_gives_one_result_for_each_operation(
    server: FakeServer, db: Ovsdb
) -> None:
    assert await db.transact([OP, OP]) == [{}, {}]
    assert server.received[-1]["params"] == ["Open_vSwitch", OP, OP]


async def test_answers_may_come_in_single_bytes(server: FakeServer, db: Ovsdb) -> None:
    server.piece = 1
    assert await db.transact([OP]) == [{}]


async def test_many_calls_share_one_connection(server: FakeServer, db: Ovsdb) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(db.transact([OP]))
    assert server.connections == 1


async def test_the_servers_echo_is_answered(server: FakeServer, db: Ovsdb) -> None:
    await db.transact([OP])
    server.push({"id": "echo", "method": "echo", "params": ["you?"]})
    answer = {"id": "echo", "result": ["you?"], "error": None}
    await until(lambda: answer in server.received)


async def test_an_operations_error_is_found_inside_the_result(
    server: FakeServer, db: Ovsdb
) -> None:
    server.transactor = lambda _: [{}, {"error": "constraint violation", "details": "two"}, None]
    with pytest.raises(OperationError, match="constraint violation: two") as caught:
        await db.transact([OP, OP, OP])
    told = caught.value.translate("h1")
    assert isinstance(told, Refused)
    assert told.code == "switch_error"
    assert isinstance(OperationError("timed out", "").translate("h1"), Transient)


async def test_an_error_of_the_commit_is_found_behind_the_results(
    server: FakeServer, db: Ovsdb
) -> None:
    server.transactor = lambda ops: [*({} for _ in ops), {"error": "I/O error", "details": ""}]
    with pytest.raises(OperationError, match="I/O error"):
        await db.transact([OP])


async def test_applied_means_that_the_daemon_caught_up(server: FakeServer, db: Ovsdb) -> None:
    server.cur_cfg = 6
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(db.transact_applied([OP]))
        await until(lambda: any(m.get("method") == "transact" for m in server.received))
        assert not waiting.done()
        server.applied(6)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        server.applied(7)
    assert waiting.result() == [{}]


async def test_a_stopped_daemon_is_a_passing_error(server: FakeServer, db: Ovsdb) -> None:
    server.cur_cfg = 6
    answer = server.transactor

    def hurry(ops: list[dict[str, Any]]) -> list[Any] | None:
        db._timeout = SHORT  # for the daemon; the transaction itself has its answer
        return answer(ops)

    server.transactor = hurry
    with pytest.raises(Transient, match="ovs-vswitchd has not") as caught:
        await db.transact_applied([OP])
    assert caught.value.code == "switch_error"


async def test_a_call_without_answer_ends_at_its_deadline_and_the_next_one_works(
    server: FakeServer, db: Ovsdb
) -> None:
    usual = server.transactor
    server.transactor, db._timeout = lambda _: None, SHORT
    with pytest.raises(Transient, match=r"within 0\.05 s") as caught:
        await db.transact([OP])
    assert caught.value.code == "host_unreachable"
    server.transactor, db._timeout = usual, AMPLE
    assert await db.transact([OP]) == [{}]


async def test_a_lost_connection_fails_its_calls_at_once_and_is_made_again(
    server: FakeServer, db: Ovsdb
) -> None:
    usual = server.transactor

    def hang_up(_: object) -> None:
        server.hang_up()

    server.transactor = hang_up
    with pytest.raises(Transient, match="cannot be reached") as caught:
        await db.transact([OP])
    assert caught.value.code == "host_unreachable"
    server.transactor = usual
    assert await db.transact([OP]) == [{}]
    assert server.connections == 2


async def test_a_lost_connection_ends_waiting_for_the_daemon(server: FakeServer, db: Ovsdb) -> None:
    server.cur_cfg = 6

    async def hang_up() -> None:
        await until(lambda: any(m.get("method") == "transact" for m in server.received))
        await asyncio.sleep(0.01)
        server.hang_up()

    told, _ = await asyncio.gather(db.transact_applied([OP]), hang_up(), return_exceptions=True)
    assert isinstance(told, Transient)
    assert told.code == "host_unreachable"


async def test_a_silent_peer_is_dropped(server: FakeServer) -> None:
    db = Ovsdb(server.address, timeout=AMPLE, probe=SHORT)
    server.answers_echo = False
    server.transactor = lambda _: None
    with pytest.raises(Transient, match="nothing heard"):
        await db.transact([OP])


async def test_a_peer_that_answers_our_echo_is_kept(server: FakeServer, db: Ovsdb) -> None:
    await db.transact([OP])
    connection = db._connection
    assert connection is not None
    for asked in range(1, 4):
        # Twice the time of a probe is over, in which nothing was heard.
        connection._look()
        connection._look()
        await until(lambda: connection._heard)
        assert sum(message.get("method") == "echo" for message in server.received) == asked
    await db.transact([OP])
    assert server.connections == 1


async def test_garbage_ends_the_connection(server: FakeServer, db: Ovsdb) -> None:
    def garble(_: object) -> None:
        server.writers[-1].write(b"HTTP/1.1 400 Bad Request {}")

    server.transactor = garble
    with pytest.raises(Transient, match="expected a JSON object"):
        await db.transact([OP])


async def test_closing_ends_the_calls_under_way(server: FakeServer, db: Ovsdb) -> None:
    server.transactor = lambda _: None

    async def close() -> None:
        await until(lambda: any(m.get("method") == "transact" for m in server.received))
        await db.close()

    told, _ = await asyncio.gather(db.transact([OP]), close(), return_exceptions=True)
    assert isinstance(told, Transient)


async def test_nobody_listening_is_a_passing_error(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        await Ovsdb(f"unix:{tmp_path}/none").transact([OP])
