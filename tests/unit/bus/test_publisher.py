import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from ccfd.bus import lanes
from ccfd.bus import publisher as module
from ccfd.bus.progress import Ended, Progress, arrange
from ccfd.bus.publisher import BATCH, QUEUE, NoBroker, Publisher
from ccfd.store import outbox, tables
from ccfd.store.database import DatabaseAway, Transaction
from tests.harness import AMPLE, Harness
from tests.unit.bus.fakes import FakeSender, nack


async def say(harness: Harness, *kinds: str, request: str = "r", **about: Any) -> None:
    """Store results of a request in one transaction."""

    async def write(transaction: Transaction) -> None:
        for kind in kinds:
            message = outbox.message(
                {"type": kind, "request_id": request, "outcome": kind},
                routing_key=kind,
                correlation_id=about.get("correlation_id", request),
                reply_to=about.get("reply_to"),
            )
            await outbox.put(transaction, [message])

    await harness.database.run(write)


async def unpublished(harness: Harness) -> list[str]:
    async with harness.database.read() as transaction:
        rows = await transaction.all(
            select(tables.outbox.c.routing_key)
            .where(tables.outbox.c.published_at.is_(None))
            .order_by(tables.outbox.c.id)
        )
    return [row.routing_key for row in rows]


@pytest.fixture
def publisher(harness: Harness) -> Publisher:
    return Publisher(harness.database, lambda: True)


@asynccontextmanager
async def publishing(publisher: Publisher, sender: FakeSender) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(publisher.publish(sender))
        await asyncio.sleep(0.01)
        yield
        task.cancel()


async def test_rows_go_out_in_order_with_the_properties_of_the_contract(
    harness: Harness, publisher: Publisher
) -> None:
    await say(harness, "a.accepted", "a.succeeded", reply_to="back")
    sender = FakeSender()
    assert not await publisher.round(sender)
    assert [(sent.exchange, sent.routing_key) for sent in sender.sent] == [
        ("ccf.results", "a.accepted"),
        ("", "back"),
        ("ccf.results", "a.succeeded"),
        ("", "back"),
    ]
    assert await unpublished(harness) == []
    message = sender.sent[0].message
    assert message.type == "a.accepted"
    assert message.correlation_id == "r"
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    assert message.message_id
    assert message.timestamp is not None
    assert sender.sent[1].message.message_id == message.message_id
    await publisher.round(sender)
    assert len(sender.sent) == 4


async def test_more_than_a_batch_goes_out_batch_by_batch(
    harness: Harness, publisher: Publisher
) -> None:
    await say(harness, *(f"n{n}" for n in range(BATCH + 5)))
    sender = FakeSender()
    assert await publisher.round(sender)
    assert not await publisher.round(sender)
    assert sender.kinds() == [f"n{n}" for n in range(BATCH + 5)]


async def test_what_was_not_confirmed_when_the_channel_broke_goes_out_again(
    harness: Harness, publisher: Publisher
) -> None:
    await say(harness, "one", "two", "three")
    sender = FakeSender(lambda out: ConnectionError() if out.routing_key == "two" else None)
    with pytest.raises(ConnectionError):
        await publisher.round(sender)
    assert await unpublished(harness) == ["two", "three"]
    first = [sent.message.message_id for sent in sender.sent]
    sender = FakeSender()
    await publisher.round(sender)
    assert [sent.message.message_id for sent in sender.sent] == first[1:]


async def test_a_message_that_is_turned_down_holds_up_its_own_request_only(
    harness: Harness, publisher: Publisher
) -> None:
    await say(harness, "bad.accepted", "bad.succeeded", request="bad")
    await say(harness, "good.accepted", "good.succeeded", request="good")
    sender = FakeSender(nack("bad.accepted"))
    with capture_logs():
        await publisher.round(sender)
    assert await unpublished(harness) == ["bad.accepted", "bad.succeeded"]
    set_due(publisher, FAR)
    sender = FakeSender()
    await publisher.round(sender)
    assert sender.sent == []
    set_due(publisher, 0.0)
    await publisher.round(sender)
    assert sender.kinds() == ["bad.accepted", "bad.succeeded"]
    assert await unpublished(harness) == []


FAR = float("inf")


def set_due(publisher: Publisher, moment: float) -> None:
    """Let what is held up be due then, however fast this machine is."""
    for held in publisher._lanes._held.values():
        held.due = moment


async def test_a_message_that_is_always_turned_down_is_given_up(
    harness: Harness, publisher: Publisher
) -> None:
    await say(harness, "bad", correlation_id=None)
    await say(harness, "good", correlation_id=None)
    sender = FakeSender(nack("bad"))
    with capture_logs() as logs:
        for _ in range(lanes.ATTEMPTS):
            set_due(publisher, 0.0)
            await publisher.round(sender)
    assert sender.kinds().count("good") == 1
    assert sender.kinds().count("bad") == lanes.ATTEMPTS
    assert await unpublished(harness) == []
    assert logs[-1]["event"] == "message given up"
    assert logs[-1]["log_level"] == "error"


async def test_what_is_confirmed_while_the_database_is_away_is_recorded_later(
    harness: Harness, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(harness, "one")
    sender = FakeSender()

    async def away(_work: object) -> None:
        raise DatabaseAway("gone")

    with monkeypatch.context() as patch:
        patch.setattr(harness.database, "run", away)
        with pytest.raises(DatabaseAway):
            await publisher.round(sender)
    await publisher.round(sender)
    assert sender.kinds() == ["one"]
    assert await unpublished(harness) == []


async def test_new_rows_wake_the_publisher(harness: Harness, publisher: Publisher) -> None:
    sender = FakeSender()
    async with publishing(publisher, sender):
        await say(harness, "one")
        await publisher.flush(within=AMPLE)
        assert sender.kinds() == ["one"]


async def test_flush_gives_up_when_nothing_goes_out(harness: Harness, publisher: Publisher) -> None:
    await publisher.flush(within=0.0)
    stuck = FakeSender()

    async def never(_outgoing: object) -> None:
        await asyncio.Event().wait()

    stuck.send = never  # type: ignore[method-assign,assignment]
    async with publishing(publisher, stuck):
        await say(harness, "one")
        await publisher.flush(within=0.02)


async def test_progress_goes_out_between_accepted_and_the_terminal(
    harness: Harness, publisher: Publisher
) -> None:
    sender = FakeSender()
    async with publishing(publisher, sender):
        await say(harness, "slice.create.accepted")
        for index in range(3):
            publisher.progress(told("r", index), "c", "00-1")
        await say(harness, "slice.create.succeeded")
        await publisher.flush(within=AMPLE)
        publisher.progress(told("r", 9), "c")
        await publisher.flush(within=AMPLE)
    assert sender.kinds() == [
        "slice.create.accepted",
        *["slice.create.progress"] * 3,
        "slice.create.succeeded",
    ]
    message = sender.sent[1].message
    assert json.loads(message.body)["progress"] == {"index": 0}
    assert (message.type, message.correlation_id) == ("slice.create.progress", "c")
    assert message.headers == {"traceparent": "00-1"}


def told(request: str, index: int) -> dict[str, Any]:
    return {
        "type": "slice.create",
        "outcome": "progress",
        "request_id": request,
        "progress": {"index": index},
    }


async def test_progress_is_dropped_without_a_broker_and_when_there_is_too_much(
    harness: Harness, publisher: Publisher
) -> None:
    publisher.progress(told("r", 0), "c")
    sender = FakeSender()
    async with publishing(publisher, sender):
        for index in range(QUEUE + 10):
            publisher.progress(told("r", index), "c")
        await publisher.flush(within=AMPLE)
    assert len(sender.sent) == QUEUE


def test_green_progress_waits_unless_its_request_ends_here() -> None:
    green = [Progress("a", {}, None), Progress("b", {}, None)]
    ripe = [Progress("a", {"ripe": 1}, None), Progress("c", {}, None)]
    arranged = arrange([("x", None), ("end of a", "a")], ripe, green)
    assert arranged.items == ["x", ripe[0], green[0], "end of a", ripe[1]]
    assert arranged.later == [green[1]]


def test_the_oldest_ended_request_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from ccfd.bus import progress

    monkeypatch.setattr(progress, "REMEMBERED", 2)
    ended = Ended()
    for request in ("a", "b", "b", "c"):
        ended.add(request)
    assert [request in ended for request in "abc"] == [False, True, True]


def test_a_lane_waits_longer_each_time() -> None:
    held = lanes.Lanes()
    dues = []
    for _ in range(lanes.ATTEMPTS - 1):
        assert held.turned_down("=r", 1, now=0.0)
        dues.append(held._held["=r"].due)
    assert dues == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert held.waiting(9.0) == ["=r"]
    assert held.waiting(10.0) == []
    # Another row of the lane has its own patience.
    assert held.turned_down("=r", 2, now=0.0)
    held.passed("=r")
    assert not held.is_held("=r")


async def test_with_too_many_held_up_nothing_new_is_begun(
    harness: Harness, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LANES", 1)
    await say(harness, "bad", request="bad")
    sender = FakeSender(nack("bad"))
    with capture_logs():
        await publisher.round(sender)
    set_due(publisher, FAR)
    await say(harness, "good", request="good")
    await publisher.round(sender)
    assert sender.kinds() == ["bad"]


async def test_without_a_broker_all_counts_as_published(harness: Harness) -> None:
    await say(harness, "one", "two")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(NoBroker(harness.database).run())
        while await unpublished(harness):
            await asyncio.sleep(0.001)
        task.cancel()
