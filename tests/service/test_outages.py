"""What goes on by itself when the broker or the database goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest
from structlog.testing import capture_logs

from ccfd.store import database
from tests.service.cutter import Cut, Cutter
from tests.service.portal import Portal
from tests.service.servers import Postgres, Rabbit, SmallDisk
from tests.service.site import WITHIN, Site


@pytest.fixture
async def channel(rabbit: Rabbit) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """The operator's hands on the broker."""
    connection = await aio_pika.connect(rabbit.url)
    async with connection, connection.channel() as opened:
        yield opened


async def test_a_queue_deleted_by_hand_comes_back(
    site: Site, portal: Portal, channel: aio_pika.abc.AbstractChannel
) -> None:
    await channel.queue_delete("ccfd.events")
    async with asyncio.timeout(WITHIN):
        while site.bus.consuming:
            await asyncio.sleep(0.01)
    await site.until_consuming()
    result = await portal.ask("subnet.create", {"owner": "demo"})
    assert result["outcome"] == "succeeded"


async def test_an_exchange_deleted_by_hand_comes_back_and_no_result_is_lost(
    site: Site, portal: Portal, channel: aio_pika.abc.AbstractChannel
) -> None:
    await channel.exchange_delete("ccf.results")
    request = await portal.send("subnet.create", {"owner": "demo"}, reply_to=portal.reply_to)
    await portal.until(lambda: bool(portal.replies))
    assert portal.replies[0].type == "subnet.create.succeeded"
    assert portal.replies[0].correlation_id == request


async def test_a_letter_without_a_queue_makes_its_queue_again(
    site: Site, portal: Portal, channel: aio_pika.abc.AbstractChannel
) -> None:
    await portal.listen_no_more("ccf.dead")
    await channel.queue_delete("ccfd.dead")
    await portal.send_raw("subnet.create", b"{}")
    queue = await channel.get_queue("ccfd.dead", ensure=False)
    async with asyncio.timeout(WITHIN):
        while site.buried == []:
            await asyncio.sleep(0.01)
    letter = await queue.get()
    assert letter.headers["x-ccf-error"] == "invalid_message"


async def test_a_queue_with_other_arguments_is_told_and_tried_again(
    broker: Rabbit, database_url: str, channel: aio_pika.abc.AbstractChannel
) -> None:
    await channel.declare_queue("ccfd.events", durable=True)
    with capture_logs() as logs:
        async with Site.at(broker.url, database_url) as site, site.running():
            async with asyncio.timeout(WITHIN):
                while not site.bus.problem:
                    await asyncio.sleep(0.01)
            assert "the queue ccfd.events is not as ccfd needs it" in site.bus.problem
            assert not site.bus.connected
            await channel.queue_delete("ccfd.events")
            await site.until_consuming()
            assert site.bus.problem == ""
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "broker is not connected"
    ]


async def test_what_arrives_while_the_database_is_away_is_held(
    site: Site, portal: Portal, postgres: Postgres
) -> None:
    await portal.ask("subnet.create", {"owner": "before"})
    postgres.kill()
    requests = [await portal.send("subnet.create", {"owner": f"demo{n}"}) for n in range(3)]
    await portal.send_raw("subnet.create", b"{}")
    await asyncio.sleep(0.5)
    assert site.bus.consuming
    postgres.start()
    await asyncio.to_thread(postgres.wait)
    for request in requests:
        message = await portal.terminal(request)
        assert message.type == "subnet.create.succeeded"
    assert {letter.headers["x-ccf-error"] for letter in portal.letters} == {"invalid_message"}


async def test_a_broker_that_restarts_is_found_again_and_all_goes_on(
    site: Site, broker: Rabbit
) -> None:
    async with Portal.opened(broker.url) as portal:
        before = [await portal.send("subnet.create", {"owner": f"a{n}"}) for n in range(20)]
    await asyncio.to_thread(broker.stop)
    async with asyncio.timeout(WITHIN):
        while site.bus.connected:
            await asyncio.sleep(0.01)
    # What is stored meanwhile is said later.
    during = await site.send("subnet.create", owner="during")
    await site.terminal(during)
    broker.start()
    await asyncio.to_thread(broker.wait)
    async with Portal.opened(broker.url) as portal:
        await site.until_consuming()
        assert (await portal.ask("subnet.create", {"owner": "after"}))["outcome"] == "succeeded"
        for request in before:
            assert (await site.terminal(request))["outcome"] == "succeeded"
        await site.bus.flush()
        assert await site.unpublished() == 0


@pytest.mark.parametrize("how", ["torn", "unconfirmed"])
async def test_a_connection_that_is_cut_in_the_middle_of_a_publish_loses_nothing(
    broker: Rabbit, database_url: str, how: Cut
) -> None:
    async with (
        Cutter.before(broker.url, how) as (cutter, url),
        Site.at(url, database_url) as site,
        site.running(),
    ):
        await site.until_consuming()
        async with Portal.opened(broker.url) as portal:
            cutter.marker, cutter.cuts = b'"outcome":"succeeded"', 3
            requests = [await portal.send("subnet.create", {"owner": f"o{n}"}) for n in range(30)]
            for request in requests:
                assert (await portal.terminal(request)).type == "subnet.create.succeeded"
            await site.bus.flush()
            async with asyncio.timeout(WITHIN):
                while cutter.cuts or await site.unpublished():
                    await asyncio.sleep(0.05)
    for request in requests:
        said = [message for message in portal.about(request) if "succ" in (message.type or "")]
        assert len({(message.message_id, message.body) for message in said}) == 1
    if how == "unconfirmed":
        assert len(portal.results) > 2 * len(requests), "what was not confirmed is said again"


async def test_a_full_disk_is_told_and_waited_for(
    broker: Rabbit, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than this machine may stand still between two attempts to write.
    monkeypatch.setattr(database, "DOUBT", 2 * WITHIN)
    async with Site.at(broker.url, small_disk.url) as site, site.running():
        await site.until_consuming()
        async with Portal.opened(broker.url) as portal:
            await portal.ask("subnet.create", {"owner": "before"})
            small_disk.fill()
            requests = [
                await portal.send("subnet.create", {"owner": f"o{n}", "ipcount": 8})
                for n in range(300)
            ]
            async with asyncio.timeout(WITHIN):
                while site.database.is_up:
                    await asyncio.sleep(0.01)
            assert "No space left on device" in site.database.problem
            await asyncio.sleep(2.0)
            assert not site.database.is_up, "it is said as long as it lasts"
            assert site.bus.consuming
            small_disk.make_room()
            for request in requests:
                assert (await portal.terminal(request)).type == "subnet.create.succeeded"
            # As if that time were over: now that nothing that was under way can fail any more.
            site.database._doubted_until = 0.0
            async with asyncio.timeout(WITHIN):
                while not site.database.is_up:
                    await asyncio.sleep(0.05)


async def test_a_broker_that_is_down_at_start_is_waited_for(
    broker: Rabbit, database_url: str
) -> None:
    await asyncio.to_thread(broker.stop)
    async with Site.at(broker.url, database_url) as site, site.running():
        await asyncio.sleep(0.3)
        assert not site.bus.connected
        assert site.bus.problem
        broker.start()
        await site.until_consuming()
        async with Portal.opened(broker.url) as portal:
            result = await portal.ask("subnet.create", {"owner": "demo"})
            assert result["outcome"] == "succeeded"


async def test_after_stop_nothing_is_consumed_and_all_is_published(
    site: Site, portal: Portal
) -> None:
    await portal.ask("subnet.create", {"owner": "one"})
    site.bus.stop_consuming()
    async with asyncio.timeout(WITHIN):
        while site.bus.consuming:
            await asyncio.sleep(0.01)
    await portal.send("subnet.create", {"owner": "two"})
    stored = await site.send("subnet.create", owner="three")
    await portal.terminal(stored)
    assert await site.requests() == 2


async def test_without_a_broker_what_is_said_counts_as_published(database_url: str) -> None:
    async with Site.at("", database_url) as site, site.running():
        await site.ask("subnet.create", owner="demo")
        async with asyncio.timeout(WITHIN):
            while await site.unpublished():
                await asyncio.sleep(0.01)
