import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from ccfd.bus import inbox as module
from ccfd.bus.deliveries import Delivery, read
from ccfd.bus.inbox import BATCH, Inbox, next_batch
from ccfd.requests.decode import Event
from ccfd.store.database import DatabaseAway, Transaction
from tests.harness import Harness
from tests.unit.bus.fakes import FakeSender, delivered


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)


class Intake:
    """The real one, which first does what the test wants, and counts."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.trap: Callable[[Event], None] = lambda _: None
        self.calls: list[str] = []

    async def store(self, event: Event, transaction: Transaction) -> Any:
        self.calls.append(event.message_id)
        stored = await self.harness.intake.store(event, transaction)
        self.trap(event)
        return stored

    async def store_all(self, events: Sequence[Event], transaction: Transaction) -> Any:
        self.calls += [event.message_id for event in events]
        stored = await self.harness.intake.store_all(events, transaction)
        for event in events:
            self.trap(event)
        return stored


class Scene:
    """An inbox with all that it talks to."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.intake = Intake(harness)
        self.buried: list[str] = []
        self.inbox = Inbox(
            harness.database, self.intake, prefetch=8, dead_letter=self.buried.append
        )
        self.sender = FakeSender()
        self.acknowledged: list[int] = []

    async def acknowledge(self, tag: int) -> None:
        self.acknowledged.append(tag)

    async def settle(self, batch: Sequence[Delivery]) -> None:
        await self.inbox.settle(batch, self.sender, self.acknowledge)

    async def requests(self) -> dict[str, str]:
        return {
            body["request_id"]: body.get("error", {}).get("code", body["outcome"])
            for _, body in await self.harness.said()
        }


@pytest.fixture
def scene(harness: Harness) -> Scene:
    return Scene(harness)


def batch(*owners: str) -> list[Delivery]:
    """Make one `subnet.create` an owner, tags from 1, message ids `m1`, …"""
    return [
        read(delivered(json.dumps({"owner": owner}).encode(), tag=tag))
        for tag, owner in enumerate(owners, start=1)
    ]


async def test_a_batch_is_stored_in_one_transaction_and_acknowledged_at_once(
    scene: Scene,
) -> None:
    transactions = count_transactions(scene)
    await scene.settle(batch("a", "b", "c"))
    assert await scene.requests() == {"m1": "accepted", "m2": "accepted", "m3": "accepted"}
    assert transactions == [1]
    assert scene.acknowledged == [3]


def count_transactions(scene: Scene) -> list[int]:
    run = scene.harness.database.run
    count = [0]

    async def counted(work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        count[0] += 1
        return await run(work)

    scene.harness.database.run = counted  # type: ignore[method-assign]
    return count


async def test_a_copy_in_the_same_batch_is_dropped(scene: Scene) -> None:
    one = read(delivered(b'{"owner": "a"}', tag=1, message_id="same"))
    two = read(delivered(b'{"owner": "b"}', tag=2, message_id="same"))
    await scene.settle([one, two])
    assert [kind for kind, _ in await scene.harness.said()] == ["subnet.create.accepted"]
    assert scene.acknowledged == [2]


async def test_a_message_that_breaks_the_transaction_fails_alone(scene: Scene) -> None:
    def trap(event: Event) -> None:
        if event.message_id == "m2" and event.data is not None:
            raise ZeroDivisionError("secret")

    scene.intake.trap = trap
    with capture_logs():
        await scene.settle(batch("a", "b", "c"))
    assert await scene.requests() == {"m1": "accepted", "m2": "internal", "m3": "accepted"}
    assert scene.harness.dead == ["internal"]
    assert scene.acknowledged == [1, 2, 3]
    (failed,) = [body for kind, body in await scene.harness.said() if kind.endswith("failed")]
    assert "secret" not in failed["error"]["message"]


async def test_what_the_database_refuses_altogether_is_held(scene: Scene) -> None:
    refused = 0

    def trap(event: Event) -> None:
        nonlocal refused
        refused += 1
        if refused < 8:
            raise ZeroDivisionError

    scene.intake.trap = trap
    with capture_logs():
        await scene.settle(batch("a"))
    assert await scene.requests() == {"m1": "accepted"}
    assert scene.acknowledged == [1]
    assert not scene.sender.sent


async def test_while_the_database_is_away_deliveries_are_held(scene: Scene) -> None:
    away = 3

    def trap(event: Event) -> None:
        nonlocal away
        assert not scene.acknowledged
        if away:
            away -= 1
            raise DatabaseAway("gone")

    scene.intake.trap = trap
    with capture_logs() as logs:
        await scene.settle(batch("a", "b"))
    assert await scene.requests() == {"m1": "accepted", "m2": "accepted"}
    assert scene.acknowledged == [2]
    assert [entry["event"] for entry in logs] == ["inbox waits for the database", "inbox goes on"]


async def test_without_a_message_id_the_letter_is_confirmed_before_the_acknowledgement(
    scene: Scene,
) -> None:
    nameless = read(delivered(b"{}", tag=1, message_id=None))
    scene.sender.judge = lambda _: ConnectionError("lost")
    with pytest.raises(ConnectionError):
        await scene.settle([nameless])
    assert not scene.acknowledged
    assert not scene.buried

    scene.sender.judge = lambda _: None
    with capture_logs():
        await scene.settle([nameless, *batch("a")[:1]])
    assert scene.sender.kinds() == ["subnet.create"] * 2
    assert scene.buried == ["invalid_message"]
    assert await scene.requests() == {"m1": "accepted"}
    assert len(scene.acknowledged) == 1


async def test_only_nameless_messages_need_no_transaction(scene: Scene) -> None:
    with capture_logs():
        await scene.settle([read(delivered(tag=9, message_id=None))])
    assert scene.acknowledged == [9]
    assert not scene.intake.calls


def test_a_batch_is_what_has_arrived_in_order() -> None:
    arrived = deque(delivered(tag=tag) for tag in range(1, BATCH + 3))
    assert [delivery.tag for delivery in next_batch(arrived)] == list(range(1, BATCH + 1))
    assert [delivery.tag for delivery in next_batch(arrived)] == [BATCH + 1, BATCH + 2]
    assert not arrived


def test_a_batch_ends_with_the_message_that_makes_it_large() -> None:
    arrived = deque(delivered(b"x" * (1 << 19), tag=tag) for tag in range(5))
    assert [len(next_batch(arrived)) for _ in range(3)] == [2, 2, 1]


async def test_cancelled_by_the_broker_it_stores_what_has_arrived_and_says_so(
    scene: Scene,
) -> None:
    channel = FakeChannel([delivered(b'{"owner": "a"}', tag=1)])
    with pytest.raises(module.ConsumerCancelled):
        await scene.inbox.run(channel)  # type: ignore[arg-type]  # as much as the inbox uses
    assert channel.acknowledged == [1]
    assert await scene.requests() == {"m1": "accepted"}
    assert not scene.inbox.consuming


async def test_stopped_it_cancels_its_consumer_and_waits(scene: Scene) -> None:
    channel = FakeChannel([], cancels=False)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(scene.inbox.run(channel))  # type: ignore[arg-type]  # see above
        await until(lambda: channel.consumed and scene.inbox.consuming)
        scene.inbox.stop()
        await until(lambda: channel.cancelled and not scene.inbox.consuming)
        assert not task.done()
        task.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0)


class FakeChannel:
    """Delivers, then cancels the consumer. Both of aio_pika's and aiormq's channels."""

    default_exchange = None

    def __init__(self, messages: list[Any], *, cancels: bool = True) -> None:
        self.messages = messages
        self.cancels = cancels
        self.acknowledged: list[int] = []
        self.consumed = self.cancelled = False
        self.on_consumer_cancel_callbacks: set[Callable[[object], None]] = set()

    async def get_underlay_channel(self) -> "FakeChannel":
        return self

    async def basic_qos(self, *, prefetch_count: int) -> None:
        assert prefetch_count == 8

    async def basic_consume(self, queue: str, take: Callable[[Any], Awaitable[None]]) -> Any:
        assert queue == "ccfd.events"
        self.consumed = True
        for message in self.messages:
            await take(message)
        if self.cancels:
            for callback in self.on_consumer_cancel_callbacks:
                callback(object())
        return self

    consumer_tag = "tag"

    async def basic_cancel(self, tag: str) -> None:
        assert tag == "tag"
        self.cancelled = True

    async def basic_ack(self, tag: int, *, multiple: bool) -> None:
        assert multiple
        self.acknowledged.append(tag)
