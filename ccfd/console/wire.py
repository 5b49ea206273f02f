"""The connection to a VM's screen, and the way of its bytes into websocket frames.

The pictures are what a console is made of, so they are moved as seldom as can be: the kernel
writes them into one buffer behind the place of a frame's header (RFC 6455, 5.2), and takes header
and picture from there. Nothing waits in between but what a slow browser leaves, of which there is
never more than one buffer and what a transport holds back by itself.
"""

import asyncio
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Protocol

from ccfd.console.closing import GARBAGE, HOST_DOWN, HUNG_UP, Close, Closed
from ccfd.console.rfb import Conversation, RfbError, StartTls, with_vm
from ccfd.model.screen import LocalScreen, Screen

FRAME = 256 * 1024
"""Bytes of payload that a frame has at most, in either direction."""
CONNECT_WITHIN = 10.0
"""Seconds for connecting to a VM's screen, handshakes included."""
KEEPALIVE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 10,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 5,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
}
"""A remote host that falls silent is noticed after 25 s."""
_HEADER = 10
_MOST_EARLY = 64 * 1024
_BINARY = 0x82
"""FIN, and the opcode of binary frames."""

# One for all sessions: it is filled and emptied without a pause in between.
_BUFFER = bytearray(_HEADER + FRAME)
_WHOLE = memoryview(_BUFFER)
_BODY = _WHOLE[_HEADER:]
# Since 3.12 a transport keeps what it could not send as it was given, without a copy.
_IS_COPIED = sys.version_info < (3, 12)


def frame(length: int) -> memoryview:
    """Put a header before the first *length* bytes of the buffer, and return the frame."""
    if length < 126:
        start = _HEADER - 2
        struct.pack_into("!BB", _BUFFER, start, _BINARY, length)
    elif length < 65536:
        start = _HEADER - 4
        struct.pack_into("!BBH", _BUFFER, start, _BINARY, 126, length)
    else:
        start = 0
        struct.pack_into("!BBQ", _BUFFER, start, _BINARY, 127, length)
    return _WHOLE[start : _HEADER + length]


class Browser(Protocol):
    """The writing side of a browser's connection."""

    def write(self, data: bytes | memoryview) -> None:
        """Send *data* without waiting."""

    def is_closing(self) -> bool:
        """Tell whether nothing more can be sent."""


class Wire(asyncio.BufferedProtocol):
    """A connection to a VM's screen. `ended` is set when it is lost.

    First it is listened to (`hear`), then it is joined to a browser (`join`).
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.received = 0
        """Bytes that came from the VM since it is joined."""
        self.record: Callable[[bytes], None] | None = None
        """Is told what the browser is shown."""
        self.full = asyncio.Event()
        """Set when the browser can take no more for now: reading has been paused."""
        self._early = bytearray()
        self._told = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._browser: Browser | None = None
        self._is_full: Callable[[], bool] = lambda: False
        self._may_write = asyncio.Event()
        self._may_write.set()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Give the shared buffer."""
        return _BODY

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what the buffer holds, or keep it for `hear`."""
        browser = self._browser
        if browser is None:
            self._early += _BODY[:nbytes]
            self._told.set()
            if len(self._early) > _MOST_EARLY:
                self.abort()
            return
        self.received += nbytes
        if self.record is not None:
            self.record(bytes(_BODY[:nbytes]))
        if browser.is_closing():
            return
        whole = frame(nbytes)
        browser.write(whole if _IS_COPIED else bytes(whole))
        if self._is_full():
            self.pause()
            self.full.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let nobody wait any more."""
        self.ended.set()
        self._told.set()
        self.full.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        """Have `send` wait."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._may_write.set()

    # --- what the relay calls

    async def hear(self) -> bytes:
        """Return what has come, at least a byte; raise `RfbError` when the connection is lost."""
        await self._told.wait()
        self._told.clear()
        heard = bytes(self._early)
        self._early.clear()
        if not heard:
            raise RfbError("it hung up")
        return heard

    def join(self, browser: Browser, is_full: Callable[[], bool]) -> None:
        """From now on send what comes to *browser*; *is_full* tells when it can take no more.

        Raises `RfbError` where something has come already: it was not the VM's turn.
        """
        if self._early:
            raise RfbError("it talks before its turn")
        self._browser, self._is_full = browser, is_full

    async def send(self, data: bytes) -> None:
        """Send to the VM; wait while it takes nothing."""
        assert self._transport is not None
        self._transport.write(data)
        if not self._may_write.is_set():
            await self._may_write.wait()

    def pause(self) -> None:
        """Read nothing for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on with the server whose certificate proves *host*."""
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        transport = await loop.start_tls(
            self._transport,
            self,
            context,
            server_hostname=host,
            ssl_handshake_timeout=CONNECT_WITHIN,
            ssl_shutdown_timeout=1.0,
        )
        if transport is None:
            raise ConnectionError("lost while TLS began")
        self._transport = transport


async def connect(screen: Screen, tls: Callable[[], ssl.SSLContext]) -> Wire:
    """Connect to *screen* up to its SecurityResult; raise `Closed` where that cannot be done."""
    wire = Wire()
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            await _dial(screen, wire)
            await _agree(wire, screen, tls)
    except BaseException as exc:
        wire.abort()
        close = _why(exc)
        if close is None:
            raise
        raise Closed(close) from exc
    return wire


def _why(exc: BaseException) -> Close | None:
    if isinstance(exc, RfbError):
        return HUNG_UP if str(exc) == "it hung up" else GARBAGE
    return HOST_DOWN if isinstance(exc, OSError | TimeoutError) else None


async def _dial(screen: Screen, wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    if isinstance(screen, LocalScreen):
        try:
            await loop.create_unix_connection(lambda: wire, sock=screen.connection)
        except BaseException:
            screen.connection.close()
            raise
    else:
        transport, _ = await loop.create_connection(lambda: wire, screen.host, screen.port)
        connected = transport.get_extra_info("socket")
        for option, value in KEEPALIVE.items():
            connected.setsockopt(*option, value)


async def _agree(wire: Wire, screen: Screen, tls: Callable[[], ssl.SSLContext]) -> None:
    talk = Conversation(with_vm(tls=not isinstance(screen, LocalScreen)))
    said = talk.begin()
    while True:
        for word in said:
            if not isinstance(word, StartTls):
                await wire.send(word)
            elif not isinstance(screen, LocalScreen):
                await wire.start_tls(tls(), screen.host)
        if talk.done:
            return
        said = talk.hear(await wire.hear())
