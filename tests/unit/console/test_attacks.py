"""What an attacker tries: no session it should not have, no crash, bounded memory."""

import asyncio
import struct
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ccfd.console import relay
from ccfd.console.wire import FRAME
from ccfd.settings import Console
from ccfd.store.tables import console
from tests.harness import AMPLE
from tests.unit.console.conftest import Site, closed, greet
from tests.vnc import Vnc, Writer

CODES = {"unknown": 4401, "expired": 4402, "used": 4403}


async def still_works(site: Site, vnc: Vnc) -> None:
    """Show that the next viewer has a screen all the same."""
    vnc.heard.clear()
    async with site.viewer() as socket:
        await socket.send(b"after")
        await vnc.hears(b"after")


@pytest.mark.parametrize(
    "guess", ["", "a", "a" * 43, "a" * 5000, "%00" * 43, "🙂" * 43], ids=range(6)
)
async def test_a_guessed_ticket_opens_nothing(site: Site, vnc: Vnc, guess: str) -> None:
    async with site.dial(guess) as socket:
        assert (await closed(socket))[0] == CODES["unknown"]
    assert not vnc.shared


async def test_a_digest_out_of_the_database_is_no_ticket(site: Site) -> None:
    await site.ticket()
    async with site.harness.database.read() as transaction:
        digest = await transaction.scalar(select(console.c.digest))
    for guess in (digest, digest[:43]):
        async with site.dial(guess) as socket:
            assert (await closed(socket))[0] == CODES["unknown"]


async def test_an_old_ticket_opens_nothing(site: Site, vnc: Vnc) -> None:
    ticket = await site.ticket()
    site.harness.database.clock = lambda: datetime.now(UTC) + timedelta(seconds=61)
    async with site.dial(ticket) as socket:
        assert (await closed(socket))[0] == CODES["expired"]
    assert not vnc.shared


async def test_a_ticket_that_many_play_at_once_opens_one_session(site: Site, vnc: Vnc) -> None:
    ticket = await site.ticket()

    async def play() -> bool:
        async with site.dial(ticket) as socket:
            try:
                await greet(socket)
            except ConnectionClosed:
                assert socket.close_code == CODES["used"]
                return False
            return True

    opened = await asyncio.gather(*(play() for _ in range(4)))
    assert sorted(opened) == [False, False, False, True]
    assert len(vnc.shared) == 1


async def test_a_ticket_of_one_vm_opens_no_other(site: Site, vnc: Vnc) -> None:
    """The ticket alone says which VM it is: a path or a query changes nothing."""
    other = Vnc()
    site.screens.vms["other"] = lambda: pytest.fail("the other VM's screen was asked for")
    url = f"{await site.ticket()}&vm=other&host=h2&token=h2:5900"
    async with site.dial(url) as socket:
        await greet(socket)
    assert len(vnc.shared) == 1
    assert not other.shared


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8780.evil.example", "https://[", ""]
)
async def test_a_page_of_elsewhere_is_refused_and_the_ticket_stays(
    site: Site, vnc: Vnc, origin: str
) -> None:
    ticket = await site.ticket()
    with pytest.raises(InvalidStatus) as refused:
        async with site.dial(ticket, origin=origin):
            pass
    assert refused.value.response.status_code == 403
    async with site.dial(ticket, origin="http://127.0.0.1:8780") as socket:
        await greet(socket)


async def test_an_oversized_frame_ends_the_session(site: Site, vnc: Vnc) -> None:
    async with site.viewer() as socket:
        await socket.send(bytes(FRAME - 1))
        await vnc.hears(bytes(FRAME - 1))
        await socket.send(bytes(FRAME + 1))
        assert (await closed(socket))[0] == 1009
    await site.without_sessions()
    assert len(vnc.heard) == FRAME - 1


@pytest.mark.parametrize(
    "frame",
    [
        b"\x83\x80abcd",  # an opcode that is not used
        b"\xf2\x80abcd",  # reserved bits
        b"\x89\xfe\x01\x00abcd" + bytes(256),  # a ping that is too long
        b"\x82\xff" + b"\xff" * 8 + b"abcd",  # 2^64 bytes
        b"\x00\x80abcd",  # a continuation of nothing
    ],
    ids=range(5),
)
async def test_a_malformed_frame_ends_the_session(site: Site, vnc: Vnc, frame: bytes) -> None:
    async with site.viewer() as socket:
        socket.transport.write(frame)
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(AMPLE):
                await socket.recv()
    await site.without_sessions()
    assert not vnc.heard
    await still_works(site, vnc)


async def test_text_is_no_console(site: Site) -> None:
    async with site.viewer() as socket:
        await socket.send("hello")
        assert (await closed(socket))[0] == 4415


async def test_who_may_only_look_and_sends_nonsense_is_closed(site: Site) -> None:
    async with site.viewer(view_only=True) as socket:
        await socket.send(b"\x07nonsense")
        assert (await closed(socket))[0] == 4415


async def test_a_slow_opener_has_its_time(
    site: Site, vnc: Vnc, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await site.ticket()
    with monkeypatch.context() as patch:
        patch.setattr(relay, "ANSWER_WITHIN", 0.2)
        async with site.dial(ticket) as socket:
            assert (await closed(socket))[0] == 4408
    await still_works(site, vnc)


async def test_a_slow_reader_holds_back_the_vm_and_no_memory(site: Site, vnc: Vnc) -> None:
    """The VM has much to show, the viewer reads nothing: what waits in between is bounded."""
    sent = 0

    async def flood(writer: Writer, _data: bytes) -> None:
        nonlocal sent
        while sent < 1 << 28:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    vnc.on_data = flood
    async with site.dial(await site.ticket(), max_queue=1) as socket:
        await greet(socket)
        await socket.send(b"go")
        (session,) = site.consoles.open
        before = -1
        async with asyncio.timeout(AMPLE):
            while before != sent or not session.viewer.waiting:
                before = sent
                await asyncio.sleep(0.3)
        assert session.viewer.waiting <= 2 * FRAME
        assert sent < 1 << 25  # the rest is in the kernel's buffers
        socket.transport.abort()
    await site.without_sessions()


async def test_a_vm_that_reads_nothing_holds_back_its_viewer(site: Site, vnc: Vnc) -> None:
    stop = asyncio.Event()

    async def sulk(_writer: Writer, _data: bytes) -> None:
        await stop.wait()

    vnc.on_data = sulk
    async with site.viewer() as socket:
        sent = 0

        async def push() -> None:
            nonlocal sent
            while sent < 1 << 28:
                await socket.send(bytes(1 << 17))
                sent += 1 << 17

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(push(), 1)
        assert sent < 1 << 25
        socket.transport.abort()
    stop.set()
    await site.without_sessions()


@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"RFB 003.008\n\x00" + struct.pack("!I", 0xFFFFFFFF),
        b"RFB 003.008\n\x01\x02",
        b"RFB 003.008\n\x01\x01" + bytes(4) + b"early",
        bytes(1 << 18),
    ],
    ids=range(5),
)
async def test_garbage_from_the_vm_ends_only_its_own_console(site: Site, script: bytes) -> None:
    garbage = Vnc(script=script)
    path = site.harness.database.file
    assert path is not None
    good = site.screens.vms[site.vm]
    async with garbage.on_socket(path.with_suffix(".sock")) as screen:
        site.screens.vms[site.vm] = screen
        async with site.dial(await site.ticket()) as socket:
            if b"early" in script:
                for part in (b"RFB 003.008\n", b"\x01", b"\x00"):
                    await socket.send(part)
            assert (await closed(socket))[0] == 4502
    site.screens.vms[site.vm] = good
    async with site.viewer():
        pass


async def test_a_bare_connection_has_no_session(site: Site, vnc: Vnc) -> None:
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(b"RFB 003.008\n\x01\x01\r\n\r\n")
    async with asyncio.timeout(AMPLE):
        told = await reader.read(-1)
    assert b"400" in told.split(b"\r\n", 1)[0]
    writer.close()
    status, _ = await site.ask("GET", f"/console/ws?ticket={await site.ticket()}")
    assert status == 400
    assert await site.sessions() == []
    assert not vnc.shared
    await still_works(site, vnc)


async def test_nothing_for_too_long_ends_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.viewer() as socket:
        # From now on only: a busy machine may take its time for the handshake.
        short = Console(idle_timeout=0.3)
        monkeypatch.setattr(site.consoles, "_settings", short)
        assert (await closed(socket))[0] == 4411


class TestAllPlaces:
    """With one place."""

    @pytest.fixture
    def limits(self) -> Console:
        return Console(sessions=1)

    async def test_no_more_sessions_than_places(self, site: Site, vnc: Vnc) -> None:
        async with site.viewer(), site.dial(await site.ticket()) as socket:
            assert (await closed(socket))[0] == 4429
        await site.without_sessions()
        await still_works(site, vnc)
