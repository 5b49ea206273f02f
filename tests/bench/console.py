"""How fast, and how cheaply, does a console's relay move a VM's screen?

    python -m tests.bench.console [--mib N] [--rounds N]

One GiB from a VM's VNC server (a UNIX socket) to a viewer: straight over TCP as the floor, through
websockify 0.13 (in an environment of its own), through the simplest relay of the `websockets`
library with frames of 256 KiB, and through ccfd's relay in the web server that `[http] listen` is.
Then round trips of a key's 8 bytes, and 200 sessions in which nothing happens. CPU and memory (PSS)
are those of the relay's processes alone. They take turns; of all rounds the median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web
from sqlalchemy import insert
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websocket_server

from ccfd.console.consoles import Consoles
from ccfd.console.wire import FRAME
from ccfd.http import access, console
from ccfd.http.metrics import Metrics
from ccfd.model.screen import LocalScreen, Screen
from ccfd.settings import Console, Http, Settings
from ccfd.settings import Database as DatabaseSettings
from ccfd.store import migrate, tables
from ccfd.store.database import Database, Transaction
from tests.lab.cache import built
from tests.lab.shell import run, wait_until
from tests.rows import run_vm
from tests.vnc import SERVER_INIT

WEBSOCKIFY = "websockify==0.13.0"
HELLO = b"RFB 003.008\n"
TRIPS = 5000
IDLE = 200
MIB = 1 << 20
KEY = bytes((4, 1, 0, 0, 0, 0, 0, 65))
GO = b"G"
VM = "00000000-0000-4000-8000-000000000001"


# --- the VM's side: a process for each viewer


def vm(folder: str, mib: int) -> None:
    """Serve viewers: on TCP (its port is printed), on raw.sock, as VNC on rfb.sock."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    tcp = socket.create_server(("127.0.0.1", 0), backlog=512)
    raw, rfb = (socket.socket(socket.AF_UNIX) for _ in range(2))
    for listening, name in ((raw, "raw"), (rfb, "rfb")):
        listening.bind(f"{folder}/{name}.sock")
        listening.listen(512)
    print(tcp.getsockname()[1], flush=True)
    for listening in (tcp, raw):
        if os.fork() == 0:
            accept(listening, mib, is_vnc=False)
    accept(rfb, mib, is_vnc=True)


def accept(listening: socket.socket, mib: int, *, is_vnc: bool) -> None:
    """Serve every viewer, for ever."""
    while True:
        viewer, _ = listening.accept()
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                if is_vnc:
                    shake_hands(viewer)
                talk(viewer, mib)
            os._exit(0)
        viewer.close()


def shake_hands(viewer: socket.socket) -> None:
    """Begin as QEMU does without a password."""
    for said, heard in ((HELLO, 12), (b"\x01\x01", 1), (bytes(4), 1)):
        viewer.sendall(said)
        viewer.recv(heard, socket.MSG_WAITALL)
    viewer.sendall(SERVER_INIT)


def talk(viewer: socket.socket, mib: int) -> None:
    """Send all of it for a `G`, and whatever else comes, back."""
    piece = bytes(MIB)
    while data := viewer.recv(65536):
        if data == GO:
            for _ in range(mib):
                viewer.sendall(piece)
        else:
            viewer.sendall(data)


# --- ccfd's side


@dataclass
class Local:
    """The only screen there is."""

    path: str

    async def find(self, host: str, vm: str) -> Screen:
        """Connect to it."""
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(self.path)
        return LocalScreen(connected)


class Knows:
    """Says that all is well."""

    def broker_connected(self) -> bool:
        """Say so."""
        return True

    broker_consuming = database_up = broker_connected


async def relay(folder: str) -> None:
    """Serve consoles of one VM; the port is printed."""
    # Standard output is for the port.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    limits = Console(sessions=512, sessions_per_vm=256)
    settings = Settings(http=Http(), console=limits)
    database = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{folder}/ccfd.db"))
    await migrate.upgrade(database)
    await database.run(_one_vm)
    consoles = Consoles(
        limits,
        database,
        Local(f"{folder}/rfb.sock"),
        *(NoSerials(), NoSerials()),
        counters=Metrics(Knows()),
        tls=_no_tls,
    )

    @web.middleware
    async def as_operator(request: web.Request, handler: access.Handle) -> web.StreamResponse:
        request[access.REQUEST_ROLE] = request[access.REQUEST_CALLER] = "operator"
        return await handler(request)

    application = web.Application(middlewares=[as_operator])
    application.add_routes(console.routes(consoles, settings))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    await web.SockSite(runner, listening).start()
    print(listening.getsockname()[1], flush=True)
    await consoles.run()


async def _one_vm(transaction: Transaction) -> None:
    await transaction.execute(
        insert(tables.host).values(
            name="h1",
            island="default",
            configured=True,
            up=True,
            draining=False,
            **{
                f"{what}_{of}": 1
                for what in ("cpu", "ram", "disk")
                for of in ("total", "limit", "used")
            },
        )
    )
    await run_vm(VM, transaction)


class NoSerials:
    """Has no serial console, and kept nothing of it."""

    async def read(self, host: str, vm: str) -> bytes:
        """Fail."""
        raise AssertionError

    async def open(
        self, host: str, vm: str, heard: Callable[[bytes], None], ended: Callable[[], None]
    ) -> NoLine:
        """Fail."""
        raise AssertionError


class NoLine:
    """Is never opened."""

    def send(self, data: bytes) -> bool:
        """Send nothing."""
        return False

    def pause(self) -> None:
        """Do nothing."""

    resume = close = pause


def _no_tls() -> ssl.SSLContext:
    raise AssertionError("no TLS here")


# --- a relay as the `websockets` library makes it


async def bare(folder: str) -> None:
    """Serve the VM without asking who comes; the port is printed."""

    async def serve(viewer: ServerConnection) -> None:
        reader, writer = await asyncio.open_unix_connection(f"{folder}/raw.sock", limit=FRAME)

        async def to_vm() -> None:
            async for message in viewer:
                assert isinstance(message, bytes)
                writer.write(message)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            sending = group.create_task(to_vm())
            while data := await reader.read(FRAME):
                await viewer.send(data)
            sending.cancel()

    async with websocket_server(
        serve, "127.0.0.1", 0, compression=None, max_size=FRAME, max_queue=4
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


# --- the viewer's side


class Viewer:
    """A connection: plain, or a websocket, whose frames are counted and not looked at."""

    def __init__(self, port: int, path: str | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(60)
        self._is_websocket = path is not None
        self._left = 0
        self._head = b""
        self._buffer = memoryview(bytearray(MIB))
        if path is not None:
            key = base64.b64encode(os.urandom(16)).decode()
            self.socket.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\r\n".encode()
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.socket.recv(1)
            assert b" 101 " in head, head

    def send(self, data: bytes) -> None:
        """Send *data*, of at most 125 bytes, masked with nothing."""
        head = bytes((0x82, 0x80 | len(data))) + bytes(4) if self._is_websocket else b""
        self.socket.sendall(head + data)

    def take(self, count: int) -> None:
        """Read so many bytes of payload."""
        while count > 0:
            got = self.socket.recv_into(self._buffer)
            assert got, "closed too early"
            count -= self._payload(self._buffer[:got]) if self._is_websocket else got

    def _payload(self, data: memoryview) -> int:
        """Count what of *data* is no frame's header."""
        found = at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                found += step
                at += step
                continue
            self._head += bytes(data[at : at + 1])
            at += 1
            head = self._head
            size = {126: 4, 127: 10}.get(head[1] if len(head) > 1 else 0, 2)
            if len(head) == size:
                form = {2: "!xB", 4: "!xxH", 10: "!xxQ"}[size]
                (self._left,) = struct.unpack(form, head)
                self._head = b""
        return found


def as_browser(viewer: Viewer) -> Viewer:
    """Do the handshake that noVNC does."""
    for heard, said in ((12, HELLO), (2, b"\x01"), (4, b"\x01")):
        viewer.take(heard)
        viewer.send(said)
    viewer.take(len(SERVER_INIT))
    return viewer


# --- what is measured


@dataclass(frozen=True)
class Way:
    """A way from the VM to a viewer. `pid` is the relay's process, None where there is none."""

    name: str
    open: Callable[[], Viewer]
    pid: int | None


@dataclass(frozen=True)
class Found:
    """One round: MB/s, CPU seconds for a GiB, microseconds of a round trip (median, p99)."""

    rate: float
    cpu: float
    median: float
    p99: float


def family(pid: int) -> list[int]:
    """List a process and all that come from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += parents.get(found[-1], [])
    return found


def cpu(pid: int | None) -> float:
    """Return the seconds that a relay's processes ran."""
    total = 0
    for one in family(pid) if pid is not None else []:
        for thread in Path(f"/proc/{one}/task").glob("*/schedstat"):
            total += int(thread.read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> float:
    """Return the MiB that belong to a relay's processes (PSS)."""
    total = 0
    for one in family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def once(way: Way, mib: int) -> Found:
    """Measure one round."""
    viewer = way.open()
    viewer.send(KEY)
    viewer.take(len(KEY))
    before, began = cpu(way.pid), time.perf_counter()
    viewer.send(GO)
    viewer.take(mib * MIB)
    seconds = time.perf_counter() - began
    spent = cpu(way.pid) - before
    trips = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        viewer.send(KEY)
        viewer.take(len(KEY))
        trips.append((time.perf_counter() - began) * 1e6)
    viewer.socket.close()
    percentiles = statistics.quantiles(trips, n=100)
    return Found(mib * MIB / seconds / 1e6, spent * 1024 / mib, percentiles[49], percentiles[98])


def idle(way: Way) -> float:
    """Return the MiB that so many sessions cost in which nothing happens."""
    assert way.pid is not None
    before = memory(way.pid)
    viewers = [way.open() for _ in range(IDLE)]
    time.sleep(1)
    grown = memory(way.pid) - before
    for viewer in viewers:
        viewer.socket.close()
    return grown


def _websockify() -> Path:
    def install(folder: Path) -> None:
        run(["/usr/bin/python3", "-m", "venv", str(folder)])
        run([str(folder / "bin/python"), "-m", "pip", "install", "-q", WEBSOCKIFY], timeout=300)

    return built(WEBSOCKIFY.replace("==", "-"), install) / "bin/python"


@contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program meanwhile."""
    running = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        yield running
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


def _port(running: subprocess.Popen[str]) -> int:
    assert running.stdout is not None
    return int(running.stdout.readline())


def answers(port: int) -> bool:
    """Tell whether somebody listens; an error says no, too."""
    socket.create_connection(("127.0.0.1", port)).close()
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        found: int = held.getsockname()[1]
        return found


def _ticket(port: int) -> str:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/vms/{VM}/console", data=b"", method="POST"
    )
    with urllib.request.urlopen(asked) as answer:
        found: str = json.load(answer)["ticket"]
        return found


@contextmanager
def ways(mib: int) -> Iterator[list[Way]]:
    """Start all that is measured."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        me = (sys.executable, "-m", "tests.bench.console")
        tcp = _port(stack.enter_context(process(*me, "vm", folder, str(mib))))
        ours = stack.enter_context(process(*me, "relay", folder))
        ccfd = _port(ours)
        simplest = stack.enter_context(process(*me, "bare", folder))
        bare_port = _port(simplest)
        other = _free_port()
        theirs = stack.enter_context(
            process(
                str(_websockify()),
                "-m",
                "websockify",
                f"127.0.0.1:{other}",
                f"--unix-target={folder}/raw.sock",
            )
        )
        wait_until(lambda: answers(other), "websockify")
        yield [
            Way("raw TCP", lambda: Viewer(tcp, None), None),
            Way("websockify 0.13", lambda: Viewer(other, "/"), theirs.pid),
            Way("websockets", lambda: Viewer(bare_port, "/"), simplest.pid),
            Way(
                "ccfd",
                lambda: as_browser(Viewer(ccfd, f"/console/ws?ticket={_ticket(ccfd)}")),
                ours.pid,
            ),
        ]


def main() -> None:
    """Measure, and print a table."""
    if sys.argv[1:2] == ["vm"]:
        vm(sys.argv[2], int(sys.argv[3]))
    if sys.argv[1:2] == ["bare"]:
        asyncio.run(bare(sys.argv[2]))
    if sys.argv[1:2] == ["relay"]:
        asyncio.run(relay(sys.argv[2]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with ways(asked.mib) as measured:
        found: dict[str, list[Found]] = {way.name: [] for way in measured}
        for _ in range(asked.rounds):
            for way in measured:
                found[way.name].append(once(way, asked.mib))
        print(f"{asked.mib} MiB, {TRIPS} round trips of {len(KEY)} bytes, {asked.rounds} rounds")
        print(f"{'':18}{'MB/s':>8}{'CPU s/GiB':>11}{'echo µs':>9}{'p99 µs':>8}{'idle MiB':>10}")
        for way in measured:
            rounds = found[way.name]
            values = [
                statistics.median(getattr(one, name) for one in rounds)
                for name in ("rate", "cpu", "median", "p99")
            ]
            rate, spent, median, p99 = values
            kept = f"{idle(way):10.1f}" if way.pid is not None else ""
            print(f"{way.name:18}{rate:8.0f}{spent:11.2f}{median:9.0f}{p99:8.0f}{kept}")


if __name__ == "__main__":
    main()
