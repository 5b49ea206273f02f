"""A serial console: one for all viewers, who see what was before they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection

from ccfd.console import serial
from ccfd.console.serial import MOST_BEHIND, REMEMBERED, joined
from ccfd.errors import Transient
from tests.harness import AMPLE
from tests.unit.console.conftest import Site, closed


@asynccontextmanager
async def opened(site: Site, **wish: bool) -> AsyncIterator[ClientConnection]:
    async with site.dial(await site.ticket(type="serial", **wish), max_queue=1) as socket:
        async with asyncio.timeout(AMPLE):
            while len(await site.sessions()) == 0 or site.serials.heard is None:
                await asyncio.sleep(0.01)
        yield socket


async def sent(site: Site, data: bytes) -> None:
    async with asyncio.timeout(AMPLE):
        while bytes(site.serials.sent) != data:
            await asyncio.sleep(0.01)


async def test_it_is_read_and_written(site: Site) -> None:
    async with opened(site) as socket:
        site.serials.say(b"login: ")
        assert await socket.recv() == b"login: "
        await socket.send(b"ro")
        await socket.send("ot\r")
        await sent(site, b"root\r")
    await site.without_sessions()
    assert site.serials.heard is None, "the last one closes it"


async def test_all_see_the_same_and_the_next_one_what_was_before(site: Site) -> None:
    async with opened(site) as first:
        site.serials.say(b"x" * REMEMBERED + b"booted\n")
        assert (await first.recv(decode=False)).endswith(b"booted\n")
        async with opened(site) as second:
            before = await second.recv(decode=False)
            assert before == (b"x" * REMEMBERED + b"booted\n")[-REMEMBERED:]
            site.serials.say(b"login: ")
            assert await first.recv() == await second.recv() == b"login: "
        site.serials.say(b"more")
        assert await first.recv() == b"more"
    assert site.serials.opened == 1


async def test_the_first_one_sees_what_was_kept_and_nothing_twice(site: Site) -> None:
    site.logs.kept = b"Linux version 6.1\r\nRun /init\r\nlogin: "
    # Comes between the opening and the reading of what is kept: it is in both.
    site.logs.meanwhile = lambda: site.serials.say(b"Run /init\r\nlogin: ")
    async with opened(site) as socket:
        assert await socket.recv(decode=False) == site.logs.kept
        site.serials.say(b"root\r\n")
        assert await socket.recv(decode=False) == b"root\r\n"


@pytest.mark.parametrize("answers", [True, False])
async def test_what_was_kept_and_cannot_be_read_keeps_nobody_from_looking(
    site: Site, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(serial, "KEPT_WITHIN", 0.05)
    site.logs.error = Transient("host_unreachable", "no answer")
    site.logs.answers = answers
    async with opened(site) as socket:
        site.serials.say(b"login: ")
        assert await socket.recv(decode=False) == b"login: "


@pytest.mark.parametrize(
    ("kept", "heard", "both"),
    [
        (b"", b"", b""),
        (b"boot", b"", b"boot"),
        (b"", b"boot", b"boot"),
        (b"boot", b"boot", b"boot"),
        (b"a boot", b"boots", b"a boots"),
        (b"a boot", b"ended", b"a bootended"),
        (b"aaa", b"aaaa", b"aaaa"),
    ],
)
def test_what_was_kept_and_what_was_heard_overlap(kept: bytes, heard: bytes, both: bytes) -> None:
    assert joined(kept, heard) == both


async def test_who_may_only_look_types_nothing(site: Site) -> None:
    async with opened(site, view_only=True) as socket, opened(site) as other:
        await socket.send(b"rm -rf /\r")
        await socket.ping()
        await other.send(b"ls\r")
        await sent(site, b"ls\r")


async def test_a_console_that_is_open_elsewhere_is_told(site: Site) -> None:
    site.serials.heard = lambda _data: None
    async with site.dial(await site.ticket(type="serial")) as socket:
        assert (await closed(socket))[0] == 4423


async def test_the_end_of_the_vm_is_told_after_its_last_words(site: Site) -> None:
    async with opened(site) as socket:
        await site.set_state("shutoff")
        site.serials.say(b"Power down")
        assert site.serials.ended is not None
        site.serials.ended()
        assert await socket.recv() == b"Power down"
        assert (await closed(socket))[0] == 4409


async def test_a_slow_viewer_holds_the_vm_back(site: Site) -> None:
    async with opened(site) as socket:
        for _ in range(4000):
            if site.serials.is_read:
                site.serials.say(bytes(64 * 1024))
                await asyncio.sleep(0)
        (session,) = site.consoles.open
        assert session.source is not None
        got = 0
        assert MOST_BEHIND < session.source.received < 4000 * 64 * 1024
        while got < session.source.received:
            got += len(await socket.recv())
        async with asyncio.timeout(AMPLE):
            while not site.serials.is_read:
                await asyncio.sleep(0.01)


async def test_a_vm_that_reads_nothing_is_sent_no_more_than_fits(site: Site) -> None:
    site.serials.room = 10
    async with opened(site) as socket:
        await socket.send(b"x" * 11)
        assert (await closed(socket))[0] == 4415
