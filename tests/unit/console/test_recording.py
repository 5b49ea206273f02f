"""A session that is recorded, and what of it is in the file."""

import asyncio
import json
import struct
import threading
from pathlib import Path

import pytest

from ccfd.console import recording
from ccfd.console.closing import RECORDING_FULL, Close
from ccfd.console.recording import Cast, Recording, Screen
from ccfd.settings import Console
from tests.harness import AMPLE
from tests.unit.console.conftest import ORIGIN, Site, closed
from tests.unit.console.test_again import OURS, introduced
from tests.vnc import SERVER_INIT, Vnc

KEY = bytes((4, 1, 0, 0, 0, 0, 0, 65))
ABOUT = {"console": "c", "name": "web", "slice": "demo"}


@pytest.fixture
def limits(tmp_path: Path) -> Console:
    return Console(origins=(ORIGIN,), record=True, recordings=tmp_path / "kept", recording_mib=1)


def pieces(file: bytes) -> list[tuple[int, bytes]]:
    """Read a screen's file as the page does: milliseconds and bytes."""
    rest = file.partition(b"\n")[2]
    found = []
    while rest:
        at, length = struct.unpack_from("!II", rest)
        found.append((at, rest[8 : 8 + length]))
        rest = rest[8 + length :]
    return found


async def test_what_the_viewer_was_shown_is_kept_and_the_viewer_is_told(
    site: Site, vnc: Vnc, limits: Console
) -> None:
    async with site.dial(await site.ticket(), subprotocols=OURS) as socket:
        about = await introduced(socket)
        assert about["recorded"] is True
        for word in (b"RFB 003.008\n", b"\x01", b"\x00"):
            await socket.recv()
            await socket.send(word)
        assert await socket.recv() == SERVER_INIT
        await socket.send(KEY)
        await vnc.hears(KEY)
    await site.without_sessions()
    (file,) = limits.recordings.iterdir()
    assert file.name == f"{about['console']}.screen"
    assert file.stat().st_mode & 0o777 == 0o600
    assert limits.recordings.stat().st_mode & 0o777 == 0o700
    head = json.loads(file.read_bytes().partition(b"\n")[0])
    assert (head["ccfd-screen"], head["name"], head["opened_by"]) == (1, "a", "portal")
    # Not what was typed.
    assert b"".join(data for _, data in pieces(file.read_bytes())) == SERVER_INIT


async def test_where_nothing_can_be_kept_nothing_is_shown(
    site: Site, limits: Console, vnc: Vnc
) -> None:
    limits.recordings.write_text("a file where the directory should be")
    async with site.dial(await site.ticket()) as socket:
        assert (await closed(socket))[0] == 4507
    assert not vnc.shared


async def test_a_full_file_ends_the_session(tmp_path: Path) -> None:
    ended: list[Close] = []
    path = tmp_path / "x.screen"
    kept = await Recording.begun(path, "vnc", ABOUT, most=200, ended=ended.append)
    kept.add(b"a" * 30)
    assert ended == []
    kept.add(b"b" * 200)
    kept.add(b"c")
    assert ended == [RECORDING_FULL]
    kept.finish()
    await kept.run()
    assert [data for _, data in pieces(path.read_bytes())] == [b"a" * 30]


async def test_a_disk_that_is_too_slow_holds_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_BEHIND", 1000)
    ended: list[Close] = []
    kept = await Recording.begun(tmp_path / "x", "vnc", ABOUT, most=10**6, ended=ended.append)
    for _ in range(100):
        kept.add(b"a" * 300)
    assert [why.code for why in ended] == [4507]
    kept.finish()
    await kept.run()
    assert (tmp_path / "x").stat().st_size <= 1000


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_is_shown_while_something_is_written_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    writes, goes_on = threading.Event(), threading.Event()
    write = recording._write_all

    def slowly(descriptor: int, data: bytes | bytearray) -> None:
        writes.set()
        goes_on.wait(AMPLE)
        write(descriptor, data)

    monkeypatch.setattr(recording, "_write_all", slowly)
    path = tmp_path / "x.screen"
    kept = await Recording.begun(path, "vnc", ABOUT, most=10**6, ended=lambda _why: None)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(kept.run())
        await asyncio.to_thread(writes.wait, AMPLE)
        kept.add(b"last words")
        if is_cancelled:
            running.cancel()
            await asyncio.sleep(0)
        else:
            kept.finish()
        goes_on.set()
    assert [data for _, data in pieces(path.read_bytes())] == [b"last words"]


def test_a_serial_console_is_an_asciicast() -> None:
    cast = Cast()
    head = json.loads(cast.head(ABOUT, 1764000000.5))
    assert (head["version"], head["width"], head["height"]) == (2, 80, 24)
    assert head["timestamp"] == 1764000000
    euro = "€".encode()
    lines = [json.loads(cast.piece(*one)) for one in ((0.5, b"a" + euro[:1]), (1.25, euro[1:]))]
    assert lines == [[0.5, "o", "a"], [1.25, "o", "€"]]


def test_a_screens_times_are_milliseconds() -> None:
    assert pieces(b"{}\n" + Screen().piece(1.5, b"xy")) == [(1500, b"xy")]
