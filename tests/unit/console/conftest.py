"""A ccfd with one running VM, its console served over real sockets."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import update
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ccfd.console import consoles as hub
from ccfd.console.consoles import Consoles
from ccfd.errors import CcfdError, Refused
from ccfd.http import console
from ccfd.http.api import Api
from ccfd.http.metrics import Metrics
from ccfd.http.stream import Stream
from ccfd.model.screen import Screen
from ccfd.settings import Console, Http, Settings
from ccfd.store import tables
from tests.harness import AMPLE, Harness
from tests.rows import run_vm
from tests.unit.http.test_api import Knows, token
from tests.vnc import Vnc

ORIGIN = "http://portal.example"


def no_tls() -> ssl.SSLContext:
    raise AssertionError("no TLS here")


@dataclass
class Screens:
    """Knows one VM's screen."""

    vms: dict[str, Callable[[], Screen]] = field(default_factory=dict)
    error: CcfdError | None = None

    async def find(self, host: str, vm: str) -> Screen:
        if self.error is not None:
            raise self.error
        return self.vms[vm]()


@dataclass
class Serials:
    """Has one VM's serial console; like libvirt's, it can be opened once."""

    heard: Callable[[bytes], None] | None = None
    ended: Callable[[], None] | None = None
    sent: bytearray = field(default_factory=bytearray)
    is_read: bool = True
    room: int = 1 << 16
    opened: int = 0

    async def open(
        self, host: str, vm: str, heard: Callable[[bytes], None], ended: Callable[[], None]
    ) -> "Serials":
        if self.heard is not None:
            raise Refused("console_in_use", "it is open elsewhere")
        self.heard, self.ended = heard, ended
        self.opened += 1
        return self

    def send(self, data: bytes) -> bool:
        self.sent += data
        return len(self.sent) <= self.room

    def pause(self) -> None:
        self.is_read = False

    def resume(self) -> None:
        self.is_read = True

    def close(self) -> None:
        self.heard = self.ended = None

    def say(self, data: bytes) -> None:
        assert self.heard is not None
        self.heard(data)


@dataclass
class Logs:
    """Has kept what one VM wrote."""

    kept: bytes = b""
    error: CcfdError | None = None
    meanwhile: Callable[[], None] = lambda: None
    answers: bool = True

    async def read(self, host: str, vm: str) -> bytes:
        self.meanwhile()
        if not self.answers:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.kept


@dataclass
class Site:
    """What a test drives."""

    harness: Harness
    client: Any
    consoles: Consoles
    screens: Screens
    serials: Serials
    logs: Logs
    metrics: Metrics
    vm: str

    @property
    def base(self) -> str:
        return f"ws://{self.client.host}:{self.client.port}/console/ws"

    async def ask(
        self, method: str, path: str, body: Any = None, role: str = "portal"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer the-{role}-token"}
        data = None if body is None else json.dumps(body)
        async with self.client.request(method, path, data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    async def ticket(self, **wish: Any) -> str:
        status, told = await self.ask("POST", f"/v1/vms/{self.vm}/console", wish or None)
        assert status == 200, told
        found: str = told["ticket"]
        return found

    def dial(self, ticket: str, **more: Any) -> Any:
        """Open the websocket with a ticket."""
        return connect(f"{self.base}?ticket={ticket}", compression=None, **more)

    @asynccontextmanager
    async def viewer(self, **wish: Any) -> AsyncIterator[ClientConnection]:
        """Be a viewer past the handshake."""
        async with self.dial(await self.ticket(**wish), subprotocols=["binary"]) as socket:
            await greet(socket)
            yield socket

    async def set_state(self, state: str) -> None:
        vm = tables.vm
        await self.harness.database.run(
            lambda transaction: transaction.execute(
                update(vm).where(vm.c.id == self.vm).values(state=state)
            )
        )

    async def sessions(self) -> list[Any]:
        _, told = await self.ask("GET", "/v1/consoles")
        found: list[Any] = told["items"]
        return found

    async def without_sessions(self) -> None:
        """Wait until nothing is open."""
        async with asyncio.timeout(AMPLE):
            while await self.sessions():
                await asyncio.sleep(0.01)


async def greet(socket: ClientConnection) -> None:
    """Do a browser's part of the handshake, up to the VM's ServerInit."""
    assert await socket.recv() == b"RFB 003.008\n"
    await socket.send(b"RFB 003.008\n")
    assert await socket.recv() == b"\x01\x01"
    await socket.send(b"\x01")
    assert await socket.recv() == bytes(4)
    await socket.send(b"\x00")
    init = await socket.recv()
    assert isinstance(init, bytes)
    assert init.endswith(b"demo")


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Read to the end; return the close code and its reason."""
    async with asyncio.timeout(AMPLE):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


@pytest.fixture
async def vnc() -> Vnc:
    return Vnc()


@pytest.fixture
def limits() -> Console:
    return Console(sessions=4, sessions_per_vm=2, origins=(ORIGIN,))


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and wait for no reason for long."""
    monkeypatch.setattr(hub, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(hub, "TOLD_WITHIN", 0.5)


@asynccontextmanager
async def serving(
    harness: Harness, limits: Console, vm: str, screen: Callable[[], Screen]
) -> AsyncIterator[Site]:
    """Serve the consoles of a ccfd whose one VM has a *screen*."""
    roles = ("viewer", "portal", "operator")
    settings: Settings = harness.settings.model_copy(
        update={"http": Http(token=tuple(map(token, roles))), "console": limits}
    )
    metrics, screens = Metrics(Knows()), Screens({vm: screen})
    serials, logs = Serials(), Logs()
    consoles = Consoles(
        limits, harness.database, screens, serials, logs, counters=metrics, tls=no_tls
    )
    api = Api(
        settings,
        database=harness.database,
        intake=harness.intake,
        records=harness.records,
        interventions=harness.interventions,
        stream=Stream(harness.database),
        metrics=metrics,
        problems=dict,
        more=console.routes(consoles, settings),
    )
    async with (
        TestClient(TestServer(api.application(None))) as client,
        asyncio.TaskGroup() as group,
    ):
        running = group.create_task(consoles.run())
        yield Site(harness, client, consoles, screens, serials, logs, metrics, vm)
        running.cancel()


@pytest.fixture
async def site(
    harness: Harness, vnc: Vnc, limits: Console, tmp_path: Path, in_a_hurry: None
) -> AsyncIterator[Site]:
    vm = str(uuid4())
    await harness.database.run(lambda transaction: run_vm(vm, transaction))
    async with (
        vnc.on_socket(tmp_path / "vnc.sock") as screen,
        serving(harness, limits, vm, screen) as site,
    ):
        yield site
