"""A viewer that is no page: it speaks RFB (RFC 6143) over a console's websocket."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

WITHIN = 40.0
RAW = 0
UPDATE, BELL, CUT_TEXT = 0, 2, 3


class RfbViewer:
    """Looks at a VM's screen."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._heard = bytearray()
        self._size = (0, 0)
        self._pixel = 0

    @classmethod
    @asynccontextmanager
    async def looking(cls, url: str) -> AsyncIterator[RfbViewer]:
        """Open the console *url*, and be past the handshake."""
        async with connect(url, compression=None, max_size=None) as socket:
            viewer = cls(socket)
            async with asyncio.timeout(WITHIN):
                await viewer._greet()
            yield viewer

    async def _greet(self) -> None:
        for length, answer in ((12, b"RFB 003.008\n"), (2, b"\x01"), (4, b"\x01")):
            await self._read(length)
            await self._socket.send(answer)
        width, height, bits, name = struct.unpack("!HHB15xI", await self._read(24))
        await self._read(name)
        self._size, self._pixel = (width, height), bits // 8
        await self._socket.send(struct.pack("!BxHi", 2, 1, RAW))

    async def picture(self) -> bytes:
        """Ask for the whole screen; return its pixels, row by row."""
        width, height = self._size
        await self._socket.send(struct.pack("!BBHHHH", 3, 0, 0, 0, width, height))
        drawn, covered = bytearray(width * height * self._pixel), 0
        async with asyncio.timeout(WITHIN):
            while covered < width * height:
                for _ in range(await self._update()):
                    x, y, wide, high, how = struct.unpack("!HHHHi", await self._read(12))
                    assert how == RAW
                    row = wide * self._pixel
                    for line in range(y, y + high):
                        at = (line * width + x) * self._pixel
                        drawn[at : at + row] = await self._read(row)
                    covered += wide * high
        return bytes(drawn)

    async def _update(self) -> int:
        """Wait for an update; return how many rectangles follow. Skips what else may come."""
        while True:
            (kind,) = await self._read(1)
            if kind == UPDATE:
                (number,) = struct.unpack("!xH", await self._read(3))
                return int(number)
            if kind == CUT_TEXT:
                (length,) = struct.unpack("!3xI", await self._read(7))
                await self._read(length)
            else:
                assert kind == BELL, kind

    async def _read(self, length: int) -> bytes:
        while len(self._heard) < length:
            part = await self._socket.recv(decode=False)
            self._heard += part
        taken = bytes(self._heard[:length])
        del self._heard[:length]
        return taken

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; return its code and reason."""
        async with asyncio.timeout(WITHIN):
            with suppress(ConnectionClosed):
                while True:
                    await self._socket.recv()
        assert self._socket.close_code is not None
        return self._socket.close_code, self._socket.close_reason or ""
