"""How a browser's websocket is joined to a VM's screen."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from ccfd.console.closing import BAD_DATA, ENDED, GARBAGE, HUNG_UP, TOO_LATE, Close, Closed
from ccfd.console.rfb import SHARED, Conversation, RfbError, with_browser
from ccfd.console.view_only import ViewOnly
from ccfd.console.wire import FRAME, Wire

ANSWER_WITHIN = 20.0
"""Seconds that a browser has for its part of the handshake."""
PING_EVERY = 30.0
"""Seconds of silence after which a browser is asked whether it is there; it has half of them."""
CLOSE_WITHIN = 3.0
"""Seconds that a browser has to take the close code."""

WITH_WORDS = "ccfd"
"""The subprotocol of our own page: it is told in a text frame what the session is about."""


class Viewer:
    """A browser's end: a websocket that has been upgraded, to send and receive binary frames."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._socket = web.WebSocketResponse(
            protocols=(WITH_WORDS, "binary"),
            compress=False,
            max_msg_size=FRAME,
            heartbeat=PING_EVERY,
            timeout=CLOSE_WITHIN,
        )
        self._writer: AbstractStreamWriter | None = None
        self.sent = 0
        """Bytes that the browser sent, the handshake's not counted."""

    @property
    def waiting(self) -> int:
        """How many bytes wait for the browser to take them."""
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    @property
    def response(self) -> web.WebSocketResponse:
        """What the handler returns."""
        return self._socket

    async def upgrade(self) -> None:
        """Make the connection a websocket; raise HTTPBadRequest where it is asked for wrongly."""
        self._writer = await self._socket.prepare(self._request)

    async def hear(self, *, text: bool = False) -> bytes:
        """Return the next frame's payload. Raises `Closed` when the browser left or errs.

        Only with *text* it may be a text frame, too.
        """
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is WSMsgType.TEXT:
            if text:
                return str(message.data).encode()
            raise Closed(BAD_DATA)
        raise Closed(ENDED)

    async def introduce(self, about: Mapping[str, object]) -> None:
        """Tell our own page what the session is about."""
        with suppress(ConnectionError):  # who reads next finds out
            await self._socket.send_str(json.dumps(about))

    @property
    def wants_words(self) -> bool:
        """Whether it is our own page."""
        return self._socket.ws_protocol == WITH_WORDS

    async def say(self, data: bytes) -> None:
        """Send a frame, and wait while the browser takes nothing."""
        await self._socket.send_bytes(data)

    def join(self, wire: Wire) -> None:
        """Have all that *wire* brings sent to the browser."""
        transport = self._request.transport
        if transport is None:
            raise Closed(ENDED)
        protocol = self._request.protocol
        wire.join(transport, lambda: protocol.writing_paused)

    async def drained(self) -> None:
        """Wait until the browser has taken what was sent. Raises `ConnectionError`."""
        assert self._writer is not None
        await self._writer.drain()

    async def close(self, why: Close) -> None:
        """Say why, and end the connection whether that is heard or not."""
        transport = self._request.transport
        try:
            async with asyncio.timeout(2 * CLOSE_WITHIN):
                await self._socket.close(code=why.code, message=why.reason.encode())
        except (TimeoutError, ConnectionError):
            pass  # it takes nothing
        if transport is not None:
            transport.abort() if transport.get_write_buffer_size() else transport.close()


async def greet(viewer: Viewer) -> None:
    """Be the browser's VNC server up to its ClientInit. Raises `Closed`."""
    talk = Conversation(with_browser())
    said = talk.begin()
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            while True:
                for word in said:
                    assert isinstance(word, bytes), "a browser is not asked for TLS"
                    await viewer.say(word)
                if talk.done:
                    return
                said = talk.hear(await viewer.hear())
    except TimeoutError as exc:
        raise Closed(TOO_LATE) from exc
    except ConnectionError as exc:
        raise Closed(ENDED) from exc
    except RfbError as exc:
        raise Closed(BAD_DATA) from exc


async def join(viewer: Viewer, wire: Wire, *, view_only: bool) -> Close:
    """Relay between the two until one of them ends; say why."""
    try:
        viewer.join(wire)
    except RfbError as exc:
        raise Closed(GARBAGE) from exc
    await wire.send(SHARED)
    async with asyncio.TaskGroup() as group:
        ways = [
            group.create_task(_to_vm(viewer, wire, view_only=view_only)),
            group.create_task(_to_browser(viewer, wire)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        ended = [way.result() for way in ways if way.done()]
        for way in ways:
            way.cancel()
    return ended[0]


async def _to_vm(viewer: Viewer, wire: Wire, *, view_only: bool) -> Close:
    only = ViewOnly().pass_on if view_only else _everything
    try:
        while True:
            data = await viewer.hear()
            viewer.sent += len(data)
            await wire.send(only(data))
    except Closed as exc:
        return exc.close
    except RfbError:
        return BAD_DATA


def _everything(data: bytes) -> bytes:
    return data


async def _to_browser(viewer: Viewer, wire: Wire) -> Close:
    """Let *wire* read on whenever the browser has caught up."""
    while not wire.ended.is_set():
        await wire.full.wait()
        wire.full.clear()
        try:
            await viewer.drained()
        except ConnectionError:
            return ENDED
        wire.resume()
    return HUNG_UP
