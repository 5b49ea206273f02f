"""A wire to the broker that is cut in the middle of what a test names."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Self

from yarl import URL

Cut = Literal["torn", "unconfirmed"]


class Cutter:
    """Passes bytes on; cuts its connection when ccfd sends `marker`, as often as `cuts` says.

    Torn: the broker gets half of the message. Unconfirmed: it gets all, and ccfd no answer.
    """

    def __init__(self, broker: URL, how: Cut) -> None:
        assert broker.host is not None
        assert broker.port is not None
        self._to = (broker.host, broker.port)
        self._how = how
        self.marker = b""
        self.cuts = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str, how: Cut) -> AsyncIterator[tuple[Self, str]]:
        """Stand before the broker at *url*; give also the URL to use in its place."""
        cutter = cls(URL(url), how)
        server = await asyncio.start_server(cutter._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield cutter, str(URL(url).with_port(port))
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection(*self._to)
        line = Line()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._out(reader, thither, line))
                group.create_task(self._back(there, writer, line))
        except* (Over, OSError):
            pass
        finally:
            writer.close()
            thither.close()

    async def _out(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: "Line"
    ) -> None:
        while data := await reader.read(65536):
            is_it = self.cuts > 0 and not line.is_mute and self.marker in data
            self.cuts -= is_it
            if is_it and self._how == "torn":
                data = data[: data.index(self.marker) + len(self.marker) // 2]
            line.is_mute = line.is_mute or is_it
            writer.write(data)
            await writer.drain()
            if is_it and self._how == "torn":
                break
        raise Over

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: "Line"
    ) -> None:
        while data := await reader.read(65536):
            if line.is_mute:
                break
            writer.write(data)
            await writer.drain()
        raise Over


@dataclass
class Line:
    """One connection: is what the broker says kept back?"""

    is_mute: bool = False


class Over(Exception):
    """The connection has come to its end."""
