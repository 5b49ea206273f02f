"""How ccfctl reaches ccfd: HTTP over the UNIX socket or TCP, every call with a deadline."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from ccfd.cli.sse import Message, Parser

Document = dict[str, Any]

SOCKET = "/run/ccfd/ccfd.sock"
CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 30.0
SILENT_FOR = 45.0
"""Seconds without a byte, keep-alive comments included, after which a stream counts as lost."""
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """Where ccfd is: a URL, else a UNIX socket."""

    url: str | None = None
    socket: str = SOCKET
    token: str | None = None

    def __str__(self) -> str:
        return self.url or self.socket


class Unreachable(Exception):
    """Nobody answered; the text says what to do about it.

    `asked` is true where the call may have arrived all the same.
    """

    def __init__(self, text: str, *, asked: bool = False) -> None:
        super().__init__(text)
        self.asked = asked


class Answered(Exception):
    """ccfd answered with an error: the HTTP status and the `error` object."""

    def __init__(self, status: int, error: Document) -> None:
        super().__init__(error.get("message", ""))
        self.status = status
        self.error = error


class Line:
    """An open console: what is typed and what is shown."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._reason = ""

    async def send(self, data: bytes) -> None:
        """Send what was typed."""
        with suppress(OSError):  # `hear` finds out that the connection is lost
            await self._socket.send_bytes(data)

    async def hear(self) -> bytes | None:
        """Return what is to be shown; None when the console is closed."""
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        self._reason = str(message.extra or "")
        return None

    def why(self) -> str:
        """Say why it was closed."""
        code = self._socket.close_code
        lost = "the connection to ccfd was lost"
        return self._reason or (lost if code in (None, 1006) else f"closed with code {code}")


class Client:
    """An open connection to ccfd, a context manager."""

    def __init__(self, target: Target, *, within: float = ANSWER_WITHIN) -> None:
        self.target = target
        headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
        connector = None if target.url else aiohttp.UnixConnector(path=target.socket)
        self._base = (target.url or "http://ccfd").rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_WITHIN),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str | None) -> Document:
        """Return the document at *path*."""
        return await self._call("GET", path, query=query)

    async def post(self, path: str, body: Document) -> Document:
        """Send *body*; safe to repeat, as events carry their id."""
        return await self._call("POST", path, body=body)

    async def delete(self, path: str) -> Document:
        """Have what is at *path* ended."""
        return await self._call("DELETE", path)

    async def items(self, path: str, **query: str | None) -> list[Document]:
        """Return all items of a list, page after page."""
        found: list[Document] = []
        after: str | None = None
        while True:
            page = await self.get(path, limit=str(PAGE), after=after, **query)
            found += page["items"]
            after = page.get("next")
            if after is None:
                return found

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Document | None = None,
    ) -> Document:
        params = _given(query or {})
        for attempt in (1, 2):
            try:
                async with self._session.request(
                    method, self._base + path, params=params, json=body
                ) as response:
                    return _document(response.status, await response.read())
            except aiohttp.ServerDisconnectedError as exc:
                # An idle connection that the server closed meanwhile: once more, on a new one.
                if attempt == 2:
                    raise Unreachable(_advice(self.target, exc), asked=True) from exc
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                asked = not isinstance(exc, aiohttp.ClientConnectorError | ValueError)
                raise Unreachable(_advice(self.target, exc), asked=asked) from exc
        raise AssertionError("the second attempt returns or raises")

    @asynccontextmanager
    async def console(self, ticket: str) -> AsyncIterator[Line]:
        """Open the console that *ticket* opens; raise `Unreachable` and `Answered`."""
        try:
            socket = await self._session.ws_connect(
                f"{self._base}/console/ws",
                params={"ticket": ticket},
                protocols=["binary"],
                heartbeat=SILENT_FOR,
            )
        except aiohttp.WSServerHandshakeError as exc:
            raise Unreachable(f"{self.target} serves no console: status {exc.status}") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise Unreachable(_advice(self.target, exc)) from exc
        async with socket:
            yield Line(socket)

    async def open_stream(self, last_id: str | None, **query: str | None) -> aiohttp.ClientResponse:
        """Subscribe to `/v1/events`; the subscription stands when this returns."""
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                response = await self._session.get(
                    f"{self._base}/v1/events",
                    params=_given(query),
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=CONNECT_WITHIN, sock_read=SILENT_FOR
                    ),
                )
                if response.status != 200:
                    async with response:
                        _document(response.status, await response.read())
                        raise Unreachable(f"{self.target} serves no events")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise Unreachable(_advice(self.target, exc)) from exc
        return response


class Feed:
    """The events of ccfd from now on; knows how to go on after a lost connection."""

    def __init__(self, client: Client, slice_name: str | None = None) -> None:
        self._client = client
        self._slice = slice_name
        self._response: aiohttp.ClientResponse | None = None
        self._parser = Parser()
        self._last_id: str | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the stream stands."""
        return self._response is not None

    async def open(self) -> None:
        """Subscribe, after the last event that was seen. Raises `Unreachable` and `Answered`."""
        self.close()
        self._parser = Parser()
        self._response = await self._client.open_stream(self._last_id, slice=self._slice)

    def close(self) -> None:
        """Drop the stream."""
        if self._response is not None:
            self._response.close()
            self._response = None

    async def read(self, within: float | None = None) -> list[Message]:
        """Return what has come, or nothing after *within* seconds.

        Raises `Unreachable` when the stream is lost: open it again.
        """
        assert self._response is not None, "open comes first"
        try:
            async with asyncio.timeout(within):
                # Cancelled while it waits, readany has taken nothing.
                chunk = await self._response.content.readany()
        except TimeoutError as exc:
            if isinstance(exc, aiohttp.ServerTimeoutError):
                self.close()
                raise Unreachable(f"{self._client.target} fell silent") from exc
            return []
        except (aiohttp.ClientError, OSError) as exc:
            self.close()
            raise Unreachable(f"the connection to {self._client.target} was lost") from exc
        if not chunk:
            self.close()
            raise Unreachable(f"{self._client.target} closed the connection")
        messages = self._parser.feed(chunk)
        for message in messages:
            self._last_id = message.id or self._last_id
        return messages


def _given(query: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}


def _document(status: int, body: bytes) -> Document:
    """Read an answer; raise `Answered` for an error."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status < 400 and isinstance(document, dict):
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise Answered(status, document["error"])
    said = body.decode(errors="replace").strip()[:200] or "nothing"
    raise Answered(
        status,
        {
            "code": f"http_{status}",
            "message": f"ccfd answered with status {status}: {said}",
            "retriable": status >= 500,
            "details": {},
        },
    )


def _advice(target: Target, exc: Exception) -> str:
    """Say what went wrong and what to do about it."""
    if isinstance(exc, TimeoutError):
        return (
            f"{target} gave no answer in time\n"
            "ccfd may be busy or stopped: journalctl -u ccfd says more"
        )
    if target.url:
        return (
            f"cannot reach ccfd at {target.url}: {exc}\n"
            "is it running there, and does [http] listen name this address? "
            "Without --url, ccfctl uses this machine's UNIX socket"
        )
    cause = getattr(exc, "os_error", exc)
    if isinstance(cause, PermissionError):
        return f"you may not open {target.socket}\nrun ccfctl as root, or use --url with --token"
    if isinstance(cause, FileNotFoundError):
        return (
            f"there is no socket {target.socket}\n"
            "is ccfd running on this machine? systemctl status ccfd; "
            "another place is named by --socket or --url"
        )
    reason = getattr(cause, "strerror", None) or str(cause)
    return f"cannot reach ccfd at {target.socket}: {reason}\nstart it with: systemctl start ccfd"
