"""A VM's VNC server, played: over a UNIX socket, or with VeNCrypt over TLS as QEMU speaks it."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ccfd.model.screen import LocalScreen, Screen, TlsScreen

SERVER_INIT = struct.pack("!HH16sI4s", 640, 480, bytes(16), 4, b"demo")
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Vnc:
    """Serves a screen; `heard` is what viewers sent after the handshake, `shared` their flags."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, script: bytes | None = None) -> None:
        self._tls = tls
        self._script = script
        self.heard = bytearray()
        self.shared: list[bytes] = []
        self.viewers: set[Writer] = set()
        self.told = asyncio.Event()
        self.on_data: Callable[[Writer, bytes], Awaitable[None]] = self._keep

    async def _keep(self, _writer: Writer, data: bytes) -> None:
        self.heard += data
        self.told.set()

    async def hears(self, data: bytes) -> None:
        """Wait until *data* is all that was heard."""
        async with asyncio.timeout(60):
            while bytes(self.heard) != data:
                self.told.clear()
                await self.told.wait()

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve one viewer."""
        self.viewers.add(writer)
        try:
            if self._script is not None:
                writer.write(self._script)
                await reader.read(-1)
            else:
                await self._session(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.viewers.discard(writer)
            writer.close()

    async def _session(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"RFB 003.008\n")
        assert await reader.readexactly(12) == b"RFB 003.008\n"
        if self._tls is None:
            writer.write(b"\x02\x02\x01")
            assert await reader.readexactly(1) == b"\x01"
        else:
            writer.write(b"\x01\x13")
            assert await reader.readexactly(1) == b"\x13"
            writer.write(b"\x00\x02")
            assert await reader.readexactly(2) == b"\x00\x02"
            writer.write(b"\x00" + struct.pack("!B2I", 2, 261, 260))
            assert await reader.readexactly(4) == struct.pack("!I", 260)
            writer.write(b"\x01")
            await writer.start_tls(self._tls)
        writer.write(bytes(4))
        self.shared.append(await reader.readexactly(1))
        writer.write(SERVER_INIT)
        while data := await reader.read(65536):
            await self.on_data(writer, data)

    def hang_up(self) -> None:
        """End all sessions."""
        for writer in list(self.viewers):
            writer.transport.abort()

    @asynccontextmanager
    async def on_socket(self, path: Path) -> AsyncIterator[Callable[[], Screen]]:
        """Serve on a UNIX socket; give what makes a screen of it."""
        server = await asyncio.start_unix_server(self.serve, path)

        def screen() -> Screen:
            connected = socket.socket(socket.AF_UNIX)
            connected.connect(str(path))
            return LocalScreen(connected)

        try:
            yield screen
        finally:
            server.close()
            self.hang_up()

    @asynccontextmanager
    async def on_tcp(self, name: str = "127.0.0.1") -> AsyncIterator[Callable[[], Screen]]:
        """Serve on TCP; give what makes a screen of it that must prove *name*."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield lambda: TlsScreen(name, port)
        finally:
            server.close()
            self.hang_up()
