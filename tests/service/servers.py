"""How does a test get a RabbitMQ and a PostgreSQL of its own, on free ports of 127.0.0.1?"""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import aiormq
import asyncpg
import pytest

from tests.lab.shell import run, wait_until

# Not /usr/sbin/rabbitmq*: those wrappers switch to user rabbitmq and read the machine's settings.
RABBIT = Path("/usr/lib/rabbitmq/bin")
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def free_port() -> int:
    """Find a port that nobody listens on, to be bound later, and again after a restart.

    None of those that the kernel gives to clients (ip(7), ip_local_port_range): a connection of
    anybody's would take it meanwhile, even one to that port while nobody listens there.
    """
    told = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    first, last = map(int, told.split())
    ports = [port for port in range(1024, 1 << 16) if not first <= port <= last]
    while True:
        port = random.choice(ports)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def need(program: Path | None, package: str) -> Path:
    """Return *program*; where it is missing, fail in CI and skip elsewhere, and say why."""
    if program is not None and program.exists():
        return program
    why = f"{package} is not installed: run `make setup`"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


class Rabbit:
    """A broker that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._folder = folder
        for name in ("mnesia", "log", "home"):
            (folder / name).mkdir()
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "loopback_users = none\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = false\n"
        )
        epmd = str(free_port())
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": f"{folder}/home",
            "RABBITMQ_NODENAME": f"ccfd-test-{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(free_port()),
            # Its script then becomes the broker, and leaves no shell in between.
            "RUNNING_UNDER_SYSTEMD": "1",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": epmd,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }
        # In the foreground and ours to end; RabbitMQ would leave one of its own behind.
        command = ["epmd", "-address", "127.0.0.1", "-port", epmd]
        self._processes = [spawn(command, folder, self._environment)]

    def start(self) -> None:
        """Start the broker, from the main thread only (see `spawn`)."""
        self._processes.append(
            spawn([str(RABBIT / "rabbitmq-server")], self._folder, self._environment)
        )

    def wait(self) -> None:
        """Wait until the broker takes a login."""
        wait_until(self._answers, "RabbitMQ", timeout=120)

    def stop(self) -> None:
        """Stop the broker in good order: killed, 3.10 loses queues declared a moment ago."""
        process = self._processes.pop()
        process.terminate()
        process.wait(90)

    def close(self) -> None:
        """Kill everything."""
        for process in self._processes:
            end(process)

    def _answers(self) -> bool:
        # First a bare connection: the client logs each refusal, and there are many.
        socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
        asyncio.run(self._log_in())
        return True

    async def _log_in(self) -> None:
        async with asyncio.timeout(30):
            connection = await aiormq.connect(self.url)
            await connection.close()


class Postgres:
    """A server whose databases are copies of a template; *durable*: commits reach the disk."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._durable = durable
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        self._programs = need(found[-1] if found else None, "postgresql")
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user = AS_POSTGRES if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(folder, "postgres", "postgres")
        initdb = [
            *(f"{self._programs}/initdb", "--pgdata", f"{folder}/data", "--username=ccfd"),
            *("--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
        ]
        run([*self._as_user, *initdb])

    def url(self, database: str) -> str:
        """Return the URL of a database, for the settings."""
        return f"postgresql+asyncpg://ccfd@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start the server, from the main thread only (see `spawn`)."""
        settings = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "shared_buffers": "32MB",
            "max_connections": 100,
            # Tests kill it: what it committed the kernel has, and the machine stays up.
            **dict.fromkeys(("fsync", "full_page_writes"), "on" if self._durable else "off"),
        }
        words = [f"{self._programs}/postgres", "-D", f"{self._folder}/data"]
        words += [f"--{key}={value}" for key, value in settings.items()]
        self._process = spawn([*self._as_user, *words], self._folder)

    def wait(self) -> None:
        """Wait until the server takes a login."""
        wait_until(lambda: asyncio.run(self.execute("SELECT 1")), "PostgreSQL")

    async def execute(self, statement: str) -> bool:
        """Execute a statement that no transaction may hold."""
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self._port, user="ccfd", database="postgres", ssl=False
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
        return True

    def kill(self) -> None:
        """Kill the server and all its backends."""
        if self._process is not None:
            end(self._process)
            self._process = None


class SmallDisk:
    """A disk of its own for one database: a file system in memory."""

    SIZE = "32M"

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Begin."""
        argv = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(self.folder)]
        run(argv)
        shutil.chown(self.folder, "postgres", "postgres")

    def unmount(self) -> None:
        """End; what is on it is gone."""
        run(["umount", "--lazy", str(self.folder)])

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Leave room again."""
        self._ballast.unlink()


def spawn(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server that dies with the thread that starts it: a killed test run leaves none."""
    head = ["setpriv", "--pdeathsig", "KILL"]
    if command[: len(AS_POSTGRES)] == AS_POSTGRES:
        # A change of user clears the signal (prctl(2)): it is set after that.
        head, command = [*AS_POSTGRES, *head[1:]], command[len(AS_POSTGRES) :]
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [*head, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
