"""A database server of OVSDB's protocol that does what the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ccfd.network.jsonrpc import Framer, Message, encode

Transactor = Callable[[list[dict[str, Any]]], list[Any] | None]


def nothing(ops: list[dict[str, Any]]) -> list[Any]:
    """Answer each operation with an empty result, selects with `next_cfg` 7."""
    return [{"rows": [{"next_cfg": 7}]} if op["op"] == "select" else {} for op in ops]


class FakeServer:
    """Answers on a UNIX socket; `transactor` returns the results, or None to stay silent."""

    def __init__(self, path: Path, transactor: Transactor = nothing) -> None:
        self.address = f"unix:{path}"
        self.transactor = transactor
        self.cur_cfg = 7
        self.received: list[Message] = []
        self.connections = 0
        self.answers_echo = True
        self.piece = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.rows: dict[str, Any] = {}
        self._path = path

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeServer"]:
        server = await asyncio.start_unix_server(self._serve, self._path)
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.close()
            await asyncio.sleep(0)

    def push(self, message: Message) -> None:
        self.writers[-1].write(encode(message))

    def update(self, tables: dict[str, Any]) -> None:
        """Tell whoever monitors that rows have changed."""
        self.push({"id": None, "method": "update", "params": [None, tables]})

    def applied(self, cur_cfg: int) -> None:
        row = {"row-id": {"old": {"cur_cfg": self.cur_cfg}, "new": {"cur_cfg": cur_cfg}}}
        self.push({"id": None, "method": "update", "params": [None, {"Open_vSwitch": row}]})

    def hang_up(self) -> None:
        self.writers[-1].close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        framer = Framer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for message in framer.feed(data):
                    self.received.append(message)
                    await self._answer(message, writer)
        writer.close()

    async def _answer(self, message: Message, writer: asyncio.StreamWriter) -> None:
        result: Any
        match message.get("method"):
            case "echo" if self.answers_echo:
                result = message["params"]
            case "monitor" if "Bridge" in message["params"][2]:
                result = self.rows
            case "monitor":
                result = {"Open_vSwitch": {"row-id": {"new": {"cur_cfg": self.cur_cfg}}}}
            case "transact":
                result = self.transactor(message["params"][1:])
                if result is None:
                    return
            case _:
                return
        data = encode({"id": message["id"], "result": result, "error": None})
        for at in range(0, len(data), self.piece or len(data)):
            writer.write(data[at : at + (self.piece or len(data))])
            await asyncio.sleep(0)
