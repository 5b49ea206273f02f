"""A switch of a test file's own, and who is plugged into it: with nobody else on the machine.

An Open vSwitch (userspace datapath) in namespaces of this thread, brought up once for each test
file that asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import Fabric
from ccfd.network.guard_watch import GuardWatch
from ccfd.network.monitor import Monitor
from ccfd.settings import Settings
from tests.lab.pki import Authority

VNI = 1001
AMPLE = 60.0
"""Seconds that nothing takes unless it is wrong, on the busiest of machines."""
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def sh(*argv: str, timeout: float = AMPLE) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=timeout).stdout


def user_of(pid: int) -> str:
    return Path(f"/proc/{pid}").owner()


def begin(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


def system_call(answer: int) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def vm(number: int) -> str:
    return str(UUID(int=number << (128 - 4 * 11)))


def tap(number: int) -> str:
    return names.tap(vm(number))


class Switch:
    """An Open vSwitch of our own."""

    def __init__(self, folder: Path, pki: Path) -> None:
        self.folder = folder
        self.socket = folder / "db.sock"
        self._pki = pki
        self._db: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        database = self.folder / "conf.db"
        sh("ovsdb-tool", "create", str(database), "/usr/share/openvswitch/vswitch.ovsschema")
        self._db = self._spawn(
            "ovsdb-server",
            str(database),
            f"--remote=punix:{self.socket}",
            "--remote=ptcp:6640:127.0.0.1",
            "--remote=pssl:6641:127.0.0.1",
            f"--private-key={self._pki}/key.pem",
            f"--certificate={self._pki}/cert.pem",
            f"--ca-cert={self._pki}/ca.pem",
            f"--unixctl={self.folder}/db.ctl",
        )
        wait_for(self.socket.exists)
        # The socket is there a moment before anybody listens.
        self.vsctl("--retry", "--no-wait", "init")
        self.start()

    def start(self) -> None:
        self._daemon = self._spawn(
            "ovs-vswitchd", f"unix:{self.socket}", f"--unixctl={self.folder}/daemon.ctl"
        )

    def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def freeze(self, how: signal.Signals) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(how)

    def freeze_database(self, how: signal.Signals) -> None:
        assert self._db is not None
        self._db.send_signal(how)

    def end(self) -> None:
        for process in (self._daemon, self._db):
            if process is not None:
                process.kill()
                process.wait()

    def vsctl(self, *words: str) -> str:
        return sh("ovs-vsctl", f"--timeout={AMPLE:.0f}", f"--db=unix:{self.socket}", *words).strip()

    def ports(self) -> set[str]:
        """Name the bridge's ports: a VM's tap for the patch that stands for it."""
        listed = set(self.vsctl("list-ports", names.bridge(VNI)).split())
        taps = {"ccf-" + name.removeprefix("p-") for name in listed if name.startswith("p-")}
        assert taps <= (self.taps() if taps else taps)
        return {name for name in listed if not name.startswith("p-")} | taps

    def taps(self) -> set[str]:
        listed = self.vsctl("list-ports", names.GUARD).split()
        return {name for name in listed if not name.startswith("g-")}

    def ofctl(self, *words: str, bridge: str = names.GUARD) -> str:
        command, *more = words
        where = f"unix:{self.folder}/{bridge}.mgmt"
        options = ("-O", "OpenFlow13", "--no-stats", "--no-names")
        return sh("ovs-ofctl", *options, command, where, *more)

    def interface(self, name: str, column: str) -> str:
        return self.vsctl("get", "interface", name, column).strip('"')

    def _spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*argv, "-vconsole:warn"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its bridges' sockets are where its database's is, as on a real host.
                env={**os.environ, "OVS_RUNDIR": str(self.folder)},
            )


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + AMPLE
    while not ready():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


async def wait_until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(AMPLE):
        while not await asyncio.to_thread(ready):
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watched(fabric: Fabric, settings: Settings) -> AsyncIterator[list[str]]:
    """Have flows that are lost set again meanwhile, as ccfd does; tells what was put right."""
    put_right: list[str] = []
    watch = GuardWatch(settings, fabric.guards, lambda: True, put_right.append)
    monitor = Monitor(settings)
    monitor.listen(watch.hear)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(part.run()) for part in (watch, monitor)]
        yield put_right
        for part in running:
            part.cancel()


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """A machine of our own: network and mount namespaces of this thread, with a switch inside."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("run as root: it makes namespaces")
    folder = tmp_path_factory.mktemp("node")
    authority = Authority()
    identity, client = authority.issue("node", "127.0.0.1"), authority.issue("ccfd")
    for name, content in {
        "ca.pem": authority.cert,
        "cert.pem": identity.cert,
        "key.pem": identity.key,
        "client.pem": client.cert,
        "client-key.pem": client.key,
    }.items():
        (folder / name).write_bytes(content)
    back = Path.cwd()
    homes = [
        (os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY), flag)
        for kind, flag in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))
    ]
    system_call(LIBC.unshare(CLONE_NEWNET | CLONE_NEWNS))
    switch = Switch(folder, folder)
    try:
        sh("mount", "--make-rprivate", "/")
        for place in ("/run/netns", "/run/openvswitch"):
            Path(place).mkdir(exist_ok=True)
            sh("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
        sh("mount", "-t", "sysfs", "sysfs", "/sys")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "address", "add", "172.20.0.1/24", "dev", "lo")
        switch.begin()
        keys = (str(folder / name) for name in ("key.pem", "cert.pem", "ca.pem"))
        switch.vsctl("set-ssl", *keys)
        yield switch
    finally:
        switch.end()
        for fd, flag in homes:
            system_call(LIBC.setns(fd, flag))
            os.close(fd)
        os.chdir(back)


@pytest.fixture
def settings(switch: Switch, tmp_path: Path) -> Settings:
    # Not under pytest's folder, which is closed to `nobody`; gone with the mount namespace.
    state = Path("/run/openvswitch") / tmp_path.name
    return Settings.model_validate(
        {
            "network_node": {
                "tunnel_ip": "172.20.0.1",
                "ovsdb": f"unix:{switch.socket}",
                "datapath_type": "netdev",
                "state": str(state / "network"),
            }
        }
    )


@pytest.fixture
async def fabric(settings: Settings, switch: Switch) -> AsyncIterator[Fabric]:
    fabric = Fabric(settings, timeout=AMPLE)
    yield fabric
    await fabric.close()
    for bridge in switch.vsctl("list-br").split():
        switch.vsctl("del-br", bridge)


def bridge(*ports: Port, slice_name: str = "demo") -> Bridge:
    return Bridge(host=names.NODE, slice=slice_name, vni=VNI, ports=ports)


def ports(*ports: Port) -> Ports:
    return Ports(host=names.NODE, slice="demo", vni=VNI, ports=ports)


def tunnel(remote: str) -> Port:
    return Port(name=names.tunnel(VNI, remote), kind="vxlan", remote_ip=remote)


def link(number: int) -> Port:
    mac, ip = f"02:e9:0a:00:00:{number:02x}", f"10.0.0.{number}"
    return Port(name=tap(number), kind="system", vm=vm(number), mac=mac, ip=ip)


class Guest:
    """What a VM is to a switch: a link, and somebody behind it with an address."""

    def __init__(self, number: int) -> None:
        self.name = tap(number)
        self.space = f"guest-{number}"
        self.address = f"10.0.0.{number}"
        self.mac = f"02:e9:0a:00:00:{number:02x}"

    def start(self, *, address: bool = True) -> None:
        sh("ip", "netns", "add", self.space)
        sh(
            *("ip", "link", "add", self.name, "type", "veth"),
            *("peer", "name", "eth0", "address", self.mac, "netns", self.space),
        )
        if address:
            sh("ip", "-n", self.space, "address", "add", f"{self.address}/24", "dev", "eth0")
        sh("ip", "netns", "exec", self.space, "ethtool", "-K", "eth0", "tx", "off")
        sh("ip", "-n", self.space, "link", "set", "eth0", "up")
        sh("ip", "link", "set", self.name, "up")

    def stop(self) -> None:
        sh("ip", "link", "delete", self.name)
        sh("ip", "netns", "delete", self.space)

    def clear(self) -> None:
        """Leave nothing for the next test, however far this one came."""
        for what in (("link", "delete", self.name), ("netns", "delete", self.space)):
            with contextlib.suppress(subprocess.CalledProcessError):
                sh("ip", *what)

    def answered(self, other: str) -> bool:
        ping = ["ip", "netns", "exec", self.space, "ping", "-c1", "-W0.1", other]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def reaches(self, other: str) -> bool:
        """Whether it answers at last."""
        deadline = time.monotonic() + AMPLE
        while time.monotonic() < deadline:
            if self.answered(other):
                return True
        return False

    def loses(self, other: str) -> bool:
        """Whether soon nothing is answered three times in a row.

        ovs-vswitchd goes on with a flow that it has cached until its next
        revalidation, so the first packets after a change tell nothing.
        """
        deadline = time.monotonic() + AMPLE
        missed = 0
        while missed < 3 and time.monotonic() < deadline:
            missed = 0 if self.answered(other) else missed + 1
        return missed == 3


@pytest.fixture
def guests(switch: Switch) -> Iterator[tuple[Guest, Guest]]:
    pair = Guest(10), Guest(11)
    yield pair
    for guest in pair:
        guest.clear()
