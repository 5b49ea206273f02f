"""How a session is kept in a file: what its viewer was shown, and when.

A serial console becomes an asciicast (version 2: https://docs.asciinema.org/manual/asciicast/v2/),
a screen a file of our own: a line of JSON (`ccfd-screen` 1, and what the session was), then for
each piece 8 bytes, milliseconds since the start and length (big-endian), and what the VM's VNC
server sent, beginning with its ServerInit. What the viewer typed is in neither but as the VM
showed it.

Whoever is to be recorded sees nothing that is not: where a file cannot be written on, or is full,
its session ends.
"""

import asyncio
import codecs
import json
import os
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from ccfd.console.closing import RECORDING_FULL, UNRECORDED, Close, Closed
from ccfd.console.tickets import Kind

log = structlog.get_logger()

MOST_BEHIND = 8 * 1024 * 1024
"""Bytes that may wait to be written; a disk that is slower than that counts as full."""
ENDINGS: Mapping[Kind, str] = {"vnc": "screen", "serial": "cast"}
COLUMNS, LINES = 80, 24
_PIECE = struct.Struct("!II")


class Form(Protocol):
    """How a recording is written."""

    def head(self, about: Mapping[str, object], at: float) -> bytes:
        """Begin the file; *at* is the time of day in seconds since 1970."""

    def piece(self, seconds: float, data: bytes) -> bytes:
        """Write what was shown *seconds* after the start."""


class Screen:
    """A screen's file."""

    def head(self, about: Mapping[str, object], at: float) -> bytes:
        """Begin with a line of JSON."""
        return json.dumps({"ccfd-screen": 1, "timestamp": int(at), **about}).encode() + b"\n"

    def piece(self, seconds: float, data: bytes) -> bytes:
        """Write time, length and data."""
        return _PIECE.pack(min(int(seconds * 1000), 2**32 - 1), len(data)) + data


class Cast:
    """A serial console's file."""

    def __init__(self) -> None:
        # A character may come in two pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def head(self, about: Mapping[str, object], at: float) -> bytes:
        """Begin with a line of JSON."""
        size = {"version": 2, "width": COLUMNS, "height": LINES, "timestamp": int(at)}
        title = f"{about.get('name')} ({about.get('slice')})"
        return json.dumps({**size, "title": title, "ccfd": about}).encode() + b"\n"

    def piece(self, seconds: float, data: bytes) -> bytes:
        """Write an output event."""
        return json.dumps([round(seconds, 3), "o", self._decoder.decode(data)]).encode() + b"\n"


class Recording:
    """A session's file while it is written. *ended* is told why, where it cannot go on."""

    def __init__(
        self,
        descriptor: int,
        form: Form,
        most: int,
        ended: Callable[[Close], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._form = form
        self._room = most
        self._ended = ended
        self._clock = clock
        self._since = clock()
        self._waiting = bytearray()
        self._more = asyncio.Event()
        self._is_over = False
        self._is_finished = False

    @classmethod
    async def begun(
        cls,
        path: Path,
        kind: Kind,
        about: Mapping[str, object],
        *,
        most: int,
        ended: Callable[[Close], None],
    ) -> "Recording":
        """Make the file, of at most *most* bytes, for nobody else's eyes; raise `Closed`."""
        form: Form = Cast() if kind == "serial" else Screen()
        try:
            descriptor = await asyncio.to_thread(_make, path)
        except OSError as exc:
            log.warning("recording not begun", path=str(path), why=str(exc))
            raise Closed(UNRECORDED) from exc
        recording = cls(descriptor, form, most, ended)
        recording._put(form.head(about, time.time()))
        return recording

    def add(self, data: bytes) -> None:
        """Keep what was shown just now; never waits."""
        if not self._is_over:
            self._put(self._form.piece(self._clock() - self._since, data))

    def _put(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._stop(RECORDING_FULL)
        elif len(self._waiting) + len(data) > MOST_BEHIND:
            self._stop(UNRECORDED)
        else:
            self._waiting += data
            self._more.set()

    def _stop(self, why: Close) -> None:
        self._is_over = True
        self._ended(why)

    def finish(self) -> None:
        """Have `run` write the rest, and end."""
        self._is_finished = True
        self._more.set()

    async def run(self) -> None:
        """Write what is kept, until `finish` or until cancelled; then close the file."""
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                # What is added while something is written is for the next round.
                is_last = self._is_finished
                await self._write()
                if is_last:
                    return
        finally:
            try:
                await self._write()
            finally:
                self._file.close()

    async def _write(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        if not data:
            return
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, _write_all, self._file.fileno(), data)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with suppress(OSError):
                await writing  # a thread has the file in its hands
            raise
        except OSError as exc:
            log.warning("recording not written", why=str(exc))
            self._stop(UNRECORDED)


def _make(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
