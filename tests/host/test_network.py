"""Bridges, namespaces and DHCP on a real Open vSwitch (userspace datapath) and a real dnsmasq."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import (
    Bridge,
    Control,
    Controller,
    Dhcp,
    DhcpChange,
    Lease,
    Namespace,
    Port,
    Ports,
)
from ccfd.network import DhcpServers, Fabric, Namespaces, guard_flows
from ccfd.network.dhcp_files import mark
from ccfd.network.guard_watch import GuardWatch
from ccfd.network.monitor import Monitor
from ccfd.settings import Settings
from tests.host import steady_udp
from tests.lab.pki import Authority

VNI = 1001
AMPLE = 60.0
"""Seconds that nothing takes unless it is wrong, on the busiest of machines."""
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="run as root: it makes namespaces"
)


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


# --- bridges and ports


async def test_making_a_bridge_twice_gives_one_bridge_with_the_owners_tags(
    fabric: Fabric, switch: Switch
) -> None:
    wanted = bridge(tunnel("172.20.0.2"), tunnel("172.20.0.3"), link(10))
    for _ in range(2):
        await fabric.make(wanted)
        assert switch.ports() == {port.name for port in wanted.ports}
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.make(wanted)
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before
    assert "demo" in switch.vsctl("br-get-external-id", "ccf-1001", "ccf-slice")
    assert switch.interface(tap(10), "external_ids:ccf-vm") == vm(10)
    assert switch.interface(names.tunnel(VNI, "172.20.0.2"), "options:key") == "1001"


async def test_making_corrects_what_differs_and_removes_what_is_too_much(
    fabric: Fabric, switch: Switch
) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), tunnel("172.20.0.3")))
    switch.vsctl("set", "bridge", "ccf-1001", "fail_mode=secure")
    switch.vsctl("set", "interface", names.tunnel(VNI, "172.20.0.2"), "options:key=7")
    await fabric.make(bridge(tunnel("172.20.0.2"), tunnel("172.20.0.4")))
    assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), names.tunnel(VNI, "172.20.0.4")}
    assert switch.vsctl("get", "bridge", "ccf-1001", "fail_mode") == "standalone"
    assert switch.interface(names.tunnel(VNI, "172.20.0.2"), "options:key") == "1001"


def control(number: int, *uses: str) -> Control:
    return Control(
        host=names.NODE,
        slice=f"s{number}",
        vni=number,
        address="172.16.255.254/16",
        mtu=1450,
        uses=("", f"172.20.0.{number}", *uses),
    )


def shared(switch: Switch) -> set[str]:
    return set(switch.vsctl("list-ports", "ccf-0").split())


async def test_slices_come_to_the_control_network_and_go_side_by_side(
    fabric: Fabric, switch: Switch
) -> None:
    first, *others = [control(number) for number in range(2, 14)]
    await asyncio.gather(*map(fabric.join, (first, *others)))
    assert shared(switch) == {names.tunnel(0, f"172.20.0.{number}") for number in range(2, 14)}
    assert " 172.16.255.254/16 " in sh("ip", "-4", "-o", "address", "show", "ccf-0")
    assert " mtu 1450 " in sh("ip", "link", "show", "ccf-0")
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.join(first)
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before

    late = [control(number, "172.20.0.2") for number in range(20, 26)]
    await asyncio.gather(*map(fabric.leave, (first, *others)), *map(fabric.join, late))
    wanted = {2, *range(20, 26)}
    assert shared(switch) == {names.tunnel(0, f"172.20.0.{number}") for number in wanted}
    (seen,) = [(await fabric.inventory(names.NODE)).control]
    assert seen is not None
    assert {name for _, name in seen.uses} == {one.slice for one in late}
    assert seen.address == "172.16.255.254/16"

    switch.kill()
    switch.start()
    await fabric.probe(names.NODE)
    assert " 172.16.255.254/16 " in sh("ip", "-4", "-o", "address", "show", "ccf-0")
    await asyncio.gather(*(fabric.leave(replace(one, uses=None)) for one in late))
    await fabric.leave(first)
    assert switch.vsctl("list-br") == ""
    assert "ccf-0" not in sh("ip", "link")


async def test_a_slow_switch_keeps_nothing_of_a_slice_that_leaves(
    fabric: Fabric, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = replace(control(2), uses=("172.20.0.2",))
    await fabric.join(part)
    # Every switch is slow then.
    monkeypatch.setattr("ccfd.network.fabric.RESTART", 0.001)
    await fabric.leave(part)
    assert switch.vsctl("list-br") == ""


async def test_a_controllers_tap_is_plugged_into_the_control_network(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    tap_link = replace(link(10), ip="172.16.0.101")
    tap_port = Ports(host=names.NODE, slice="s2", vni=names.CONTROL_VNI, ports=(tap_link,))
    with pytest.raises(Refused, match="make it first"):
        await fabric.plug(tap_port)
    await fabric.join(control(2))
    await fabric.join(control(3))
    await fabric.plug(tap_port)
    guests[0].start(address=False)
    mine = ("address", "add", "172.16.0.101/16", "dev", "eth0")
    sh("ip", "-n", guests[0].space, *mine)
    assert guests[0].reaches("172.16.255.254")
    await fabric.leave(replace(control(2), uses=None))
    assert shared(switch) == {names.tunnel(0, "172.20.0.3")}
    await fabric.leave(control(3))


async def test_plugging_and_unplugging_may_be_repeated(fabric: Fabric, switch: Switch) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2")))
    for _ in range(2):
        await fabric.plug(ports(link(10), link(11)))
        assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), tap(10), tap(11)}
    for _ in range(2):
        await fabric.unplug(ports(link(10)))
        assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), tap(11)}


async def test_removing_a_bridge_twice_leaves_nothing(fabric: Fabric, switch: Switch) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), link(10)))
    for _ in range(2):
        await fabric.remove(bridge())
        assert switch.vsctl("list-br") == ""
        assert switch.vsctl("--bare", "--columns=name", "list", "interface") == ""
    await fabric.unplug(ports(link(10)))


async def test_another_slices_bridge_is_refused_and_never_touched(
    fabric: Fabric, switch: Switch
) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), slice_name="theirs"))
    with pytest.raises(Refused, match="of slice theirs"):
        await fabric.make(bridge())
    with pytest.raises(Refused, match="of slice theirs"):
        await fabric.plug(ports(link(10)))
    await fabric.unplug(ports(tunnel("172.20.0.2")))
    await fabric.remove(bridge())
    assert switch.ports() == {names.tunnel(VNI, "172.20.0.2")}


async def test_a_tunnel_that_the_switch_cannot_make_is_refused_with_its_words(
    fabric: Fabric, switch: Switch
) -> None:
    switch.vsctl("add-br", "other", "--", "set", "bridge", "other", "datapath_type=netdev")
    switch.vsctl(
        *("add-port", "other", "mine", "--", "set", "interface", "mine", "type=vxlan"),
        *("options:remote_ip=172.20.0.2", "options:local_ip=172.20.0.1", "options:key=1001"),
    )
    with pytest.raises(Refused, match="cannot make"):
        await fabric.make(bridge(tunnel("172.20.0.2")))


async def test_forty_bridges_at_once_all_stand(fabric: Fabric, switch: Switch) -> None:
    wanted = [
        Bridge(host=names.NODE, slice=f"s{vni}", vni=vni, ports=()) for vni in range(2000, 2040)
    ]
    async with asyncio.TaskGroup() as group:
        for one in wanted:
            group.create_task(fabric.make(one))
    assert len(switch.vsctl("list-br").split()) == len(wanted)
    inventory = await fabric.inventory(names.NODE)
    assert {found.slice for found in inventory.bridges} == {one.slice for one in wanted}


async def test_the_inventory_names_owners_of_bridges_and_ports(fabric: Fabric) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), link(10)))
    inventory = await fabric.inventory(names.NODE)
    assert [(found.name, found.slice, found.vni) for found in inventory.bridges] == [
        ("ccf-1001", "demo", VNI)
    ]
    assert {(port.name, port.vm, port.bridge) for port in inventory.ports} == {
        (tap(10), vm(10), names.GUARD),
        (names.guard_patch(vm(10)), None, names.GUARD),
        (names.patch(vm(10)), None, "ccf-1001"),
        (names.tunnel(VNI, "172.20.0.2"), None, "ccf-1001"),
    }


async def test_a_frozen_switch_daemon_is_a_passing_error_and_the_repeat_succeeds(
    switch: Switch, settings: Settings, fabric: Fabric
) -> None:
    hasty = Fabric(settings, timeout=1)
    switch.freeze(signal.SIGSTOP)
    try:
        # On a machine that stands still its database may be late, too.
        with pytest.raises(Transient, match=r"ovs-vswitchd has not applied|no answer"):
            await hasty.make(bridge(link(10)))
        with pytest.raises(Transient):
            await hasty.make(bridge(link(10)))
    finally:
        switch.freeze(signal.SIGCONT)
        await hasty.close()
    await fabric.make(bridge(link(10)))
    await fabric.probe(names.NODE)


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:6640", "ssl:127.0.0.1:6641"])
async def test_the_database_is_reached_over_the_network(
    address: str, settings: Settings, switch: Switch
) -> None:
    remote = settings.model_copy(
        update={
            "network_node": settings.network_node.model_copy(update={"ovsdb": address}),
            "tls": settings.tls.model_copy(
                update={
                    "ca": str(switch.folder / "ca.pem"),
                    "cert": str(switch.folder / "client.pem"),
                    "key": str(switch.folder / "client-key.pem"),
                }
            ),
        }
    )
    fabric = Fabric(remote, timeout=AMPLE)
    await fabric.make(bridge(link(10)))
    assert f"dl_src={link(10).mac}" in switch.ofctl("dump-flows")
    async with watched(fabric, remote):
        switch.ofctl("del-flows")
        await wait_until(lambda: f"dl_src={link(10).mac}" in switch.ofctl("dump-flows"))
    await fabric.remove(bridge())
    assert switch.vsctl("list-br") == ""
    await fabric.close()


async def test_a_server_that_our_authority_did_not_sign_is_not_trusted(
    settings: Settings, switch: Switch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority().cert)
    tls = {
        "ca": str(tmp_path / "ca.pem"),
        "cert": str(switch.folder / "client.pem"),
        "key": str(switch.folder / "client-key.pem"),
    }
    node = settings.network_node.model_copy(update={"ovsdb": "ssl:127.0.0.1:6641"})
    fabric = Fabric(
        settings.model_copy(
            update={"network_node": node, "tls": settings.tls.model_copy(update=tls)}
        )
    )
    with pytest.raises(Transient, match="certificate verify failed"):
        await fabric.probe(names.NODE)


# --- ports whose links come and go


async def test_a_link_that_appears_after_its_row_carries_traffic(
    fabric: Fabric, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    await fabric.make(bridge(link(10), link(11)))
    one.start()
    two.start()
    assert one.reaches(two.address)


async def test_a_vm_that_is_started_again_after_plug_carries_traffic_on_its_old_number(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    number = switch.interface(one.name, "ofport")

    one.stop()
    await fabric.plug(ports(link(10)))  # before its start: the link is gone
    one.start()
    assert one.reaches(two.address)

    one.stop()
    one.start()
    # Open vSwitch 3.1 listens to the dead link until something has it look again.
    await fabric.plug(ports(link(10)))  # after its start
    assert one.reaches(two.address)
    assert switch.interface(one.name, "ofport") == number

    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.plug(ports(link(10)))
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before


async def test_a_link_that_is_down_after_its_start_is_told(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    with monkeypatch.context() as patient:
        patient.setattr("ccfd.network.fabric.CARRIES_WITHIN", AMPLE)
        assert await fabric.carries(ports(link(10), link(11)))
    sh("ip", "link", "set", one.name, "down")
    # The switch tells it in its own time; one that is slow has not taken the link up before.
    wait_for(lambda: switch.interface(one.name, "link_state") == "down")
    assert not await fabric.carries(ports(link(10), link(11)))


async def test_ports_and_flows_come_back_when_the_switch_daemon_restarts(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    await fabric.make(bridge(link(10), link(11)))
    one.start()
    two.start()
    assert one.reaches(two.address)
    async with watched(fabric, settings):
        switch.kill()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)
        switch.kill()
        one.stop()
        one.start()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)


# --- bandwidth

BANDWIDTH = 10
"""Mbit/s."""

RECEIVER = f"""
import socket, sys, time
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
link.bind((sys.argv[1], {steady_udp.PORT}))
link.settimeout(10)
came = []
try:
    while True:
        link.recv(2048)
        came.append(time.monotonic())
        link.settimeout(0.5)
except TimeoutError:
    print((len(came) - 1) * {steady_udp.FRAME} * 8 / (came[-1] - came[0]) / 1e6)
"""


async def speed(sender: Guest, receiver: Guest, mbits: int) -> float:
    """Return the Mbit/s that arrive of *mbits*, counted in Ethernet frames."""

    def program(guest: Guest, *words: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", guest.space, "python3", "-c", *words)

    got, _ = await asyncio.gather(
        asyncio.to_thread(sh, *program(receiver, RECEIVER, receiver.address)),
        asyncio.to_thread(
            sh, *program(sender, steady_udp.SENDER, receiver.address, str(mbits), "1.5")
        ),
    )
    return float(got)


async def fastest(sender: Guest, receiver: Guest) -> float:
    """Return the speed at twice the limit; a busy machine's sender may not reach it at once."""
    for _ in range(8):
        found = await speed(sender, receiver, 2 * BANDWIDTH)
        if found > 0.85 * BANDWIDTH:
            break
    return found


async def test_a_vm_sends_and_gets_no_more_than_its_bandwidth(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    limited = replace(link(10), bandwidth=BANDWIDTH)
    await fabric.make(bridge(limited, link(11)))
    assert one.reaches(two.address)
    for sender, receiver in ((one, two), (two, one)):
        assert await fastest(sender, receiver) == pytest.approx(BANDWIDTH, rel=0.15)
    # libvirt does this to a tap that it makes, at any moment until the VM runs.
    sh("tc", "qdisc", "replace", "dev", limited.name, "root", "noqueue")
    assert await speed(two, one, 2 * BANDWIDTH) > 1.5 * BANDWIDTH
    await fabric.shape(ports(limited))
    assert await fastest(two, one) == pytest.approx(BANDWIDTH, rel=0.15)
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.make(bridge(limited, link(11)))
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before

    async with watched(fabric, settings):
        switch.kill()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)
        assert "rate=10000 " in switch.ofctl("dump-meters")
    await fabric.plug(ports(replace(limited, bandwidth=2)))
    assert limits(switch) == {"2000000"}
    assert "rate=2000 " in switch.ofctl("dump-meters")
    await fabric.plug(ports(link(10)))
    assert limits(switch) == set()
    assert await speed(one, two, 2 * BANDWIDTH) > 1.5 * BANDWIDTH


def limits(switch: Switch) -> set[str]:
    shown = switch.vsctl("--bare", "--columns=other_config", "list", "qos").split()
    return {one.removeprefix("max-rate=") for one in shown}


async def test_no_limit_outlives_its_port(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    limited = replace(link(10), bandwidth=BANDWIDTH)
    plain = bridge(limited, link(11))
    await fabric.make(plain)
    await fabric.unplug(ports(limited))
    assert limits(switch) == set()
    assert "meter=" not in switch.ofctl("dump-meters")
    await fabric.make(plain)
    await fabric.make(bridge(link(11)))
    assert limits(switch) == set()
    await fabric.make(plain)
    await fabric.remove(bridge())
    assert limits(switch) == set()

    # What somebody else took away leaves its limit, which is seen, and used again.
    await fabric.make(plain)
    switch.vsctl("del-br", names.GUARD)
    (stray,) = (await fabric.inventory(names.NODE)).strays
    assert (stray.port, stray.slice, stray.vni) == (limited.name, "demo", VNI)
    await fabric.make(plain)
    inventory = await fabric.inventory(names.NODE)
    assert inventory.strays == ()
    assert {p.bandwidth for p in inventory.ports if p.name == limited.name} == {BANDWIDTH}
    for name in (names.GUARD, names.bridge(VNI)):
        switch.vsctl("del-br", name)
    await fabric.remove(bridge())
    assert limits(switch) == set()


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_bridge_removed_while_its_switch_daemon_is_dead_leaves_no_link(
    moment: str, fabric: Fabric, switch: Switch
) -> None:
    link_of_bridge = Path(f"/sys/class/net/{names.bridge(VNI)}")
    await fabric.make(bridge())
    assert link_of_bridge.exists()
    switch.kill()
    if moment == "before":  # an earlier attempt, of a ccfd that was killed
        switch.vsctl("--no-wait", "del-br", names.bridge(VNI))
        switch.start()
    async with asyncio.TaskGroup() as group:
        removal = group.create_task(fabric.remove(bridge()))
        await asyncio.sleep(0.3)
        if moment == "during":
            assert not removal.done()
            switch.start()
    assert switch.vsctl("list-br") == ""
    assert not link_of_bridge.exists()


# --- what VMs may send


def frame(mac: str, kind: int, payload: bytes, to: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    """Build a frame; its payload is padded, so that a word at its end tells it from others."""
    addresses = bytes.fromhex((to + mac).replace(":", ""))
    return addresses + kind.to_bytes(2) + payload


def ipv4(source: str, payload: bytes, protocol: int = 17, to: str = "255.255.255.255") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (~total & 0xFFFF).to_bytes(2) + head[12:] + payload


def ipv6(payload: bytes, protocol: int) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, "fe80::9") + bytes.fromhex("ff02" + "00" * 13 + "01")
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload


def udp(source: int, target: int, word: bytes) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(word), 0) + word


def arp(mac: str, address: str, word: bytes) -> bytes:
    sender = bytes.fromhex(mac.replace(":", "")) + socket.inet_aton(address)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + bytes(6) + bytes(4) + word


def frames(guest: Guest, other: Guest) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return what a VM may send and what not: by a word that each carries, its last the end."""
    own, mine, foreign = guest.mac, guest.address, other.mac
    allowed = {
        "own-ip": lambda word: frame(own, 0x0800, ipv4(mine, udp(5000, 5000, word))),
        "dhcp-ask": lambda word: frame(own, 0x0800, ipv4("0.0.0.0", udp(68, 67, word))),
        "own-arp": lambda word: frame(own, 0x0806, arp(own, mine, word)),
        "arp-probe": lambda word: frame(own, 0x0806, arp(own, "0.0.0.0", word)),
        "own-type": lambda word: frame(own, 0x88B5, word),
        "ipv6": lambda word: frame(own, 0x86DD, ipv6(udp(5000, 5000, word), 17)),
        "the-end": lambda word: frame(own, 0x88B5, word),
    }
    tagged = (7).to_bytes(2) + (0x0800).to_bytes(2)
    refused = {
        "foreign-mac": lambda word: frame(foreign, 0x0800, ipv4(mine, udp(5000, 5000, word))),
        "foreign-ip": lambda word: frame(own, 0x0800, ipv4(other.address, udp(5000, 5000, word))),
        "foreign-type": lambda word: frame(foreign, 0x88B5, word),
        "no-address": lambda word: frame(own, 0x0800, ipv4("0.0.0.0", udp(5000, 5000, word))),
        "arp-spoof": lambda word: frame(own, 0x0806, arp(own, "10.0.0.1", word)),
        "arp-other": lambda word: frame(own, 0x0806, arp(foreign, mine, word)),
        "dhcp-serve": lambda word: frame(own, 0x0800, ipv4(mine, udp(67, 68, word))),
        "dhcpv6": lambda word: frame(own, 0x86DD, ipv6(udp(547, 546, word), 17)),
        "router": lambda word: frame(own, 0x86DD, ipv6(b"\x86" + bytes(15) + word, 58)),
        "redirect": lambda word: frame(own, 0x86DD, ipv6(b"\x89" + bytes(15) + word, 58)),
        "in-vlan": lambda word: frame(
            own, 0x8100, tagged + ipv4(other.address, udp(5000, 5000, word))
        ),
    }

    def built(makers: dict[str, Callable[[bytes], bytes]]) -> dict[str, bytes]:
        return {name: make(name.encode().ljust(40, b".")) for name, make in makers.items()}

    return built(allowed), built(refused)


def packets_of(guest: Guest) -> socket.socket:
    """Open the guest's end of its link, for whole frames."""

    def enter() -> socket.socket:
        fd = os.open(f"/run/netns/{guest.space}", os.O_RDONLY)
        system_call(LIBC.setns(fd, CLONE_NEWNET))
        os.close(fd)
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth0", 0))
        opened.settimeout(AMPLE)
        return opened

    with ThreadPoolExecutor(1) as thread:  # it may stay in there
        return thread.submit(enter).result()


def arrive(sender: Guest, receiver: Guest) -> set[str]:
    """Send all frames that there are; tell which of them come."""
    allowed, refused = frames(sender, receiver)
    known = {**refused, **allowed}
    with packets_of(sender) as out, packets_of(receiver) as into:
        for one in known.values():
            out.send(one)
        came: set[str] = set()
        with contextlib.suppress(TimeoutError):
            while True:
                got = into.recv(2048)
                came |= {name for name in known if name.encode() in got}
                if came >= allowed.keys():  # a switch may send some a little later
                    into.settimeout(0.3)
    return came


async def test_a_vm_sends_by_its_own_addresses_only_whatever_its_tenant_does(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    wanted = set(frames(one, two)[0])
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    assert arrive(one, two) == wanted

    # A tenant's controller has every table of the slice's bridge.
    nobody = Controller(address="127.0.0.1", port=1)
    await fabric.make(replace(bridge(link(10), link(11)), controller=nobody))
    assert one.loses(two.address)
    flood = ("add-flow", "priority=65535,actions=flood")
    switch.ofctl(*flood, bridge="ccf-1001")
    assert one.reaches(two.address)
    assert arrive(one, two) == wanted

    async with watched(fabric, settings) as put_right:
        switch.kill()
        switch.start()
        await fabric.probe(names.NODE)
        switch.ofctl(*flood, bridge="ccf-1001")
        assert await asyncio.to_thread(one.reaches, two.address)
        assert await asyncio.to_thread(arrive, one, two) == wanted
        assert put_right == ["flows", "flows"]


async def test_nothing_of_a_vm_passes_before_its_flows_and_none_are_left_behind_it(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    switch.ofctl("del-flows", f"cookie={guard_flows.cookie(vm(10))}/-1")
    assert one.loses(two.address)
    await fabric.plug(ports(link(10)))  # as every start does
    assert one.reaches(two.address)

    await fabric.unplug(ports(link(10)))
    left = guard_flows.read(switch.ofctl("dump-flows"))
    assert left.keys() == {guard_flows.cookie(vm(11))}
    for _ in range(2):
        await fabric.unplug(ports(link(11)))
        assert switch.vsctl("list-br") == "ccf-1001"


async def test_slices_come_to_the_guard_and_go_side_by_side(fabric: Fabric, switch: Switch) -> None:
    def of(number: int) -> Bridge:
        own = (link(number), link(number + 100))
        return Bridge(host=names.NODE, slice=f"s{number}", vni=number, ports=own)

    first, late = ([of(number) for number in numbers] for numbers in (range(2, 8), range(8, 14)))
    await asyncio.gather(*map(fabric.make, first))
    await asyncio.gather(*map(fabric.remove, first), *map(fabric.make, late))
    taps = {port.name for one in late for port in one.ports}
    assert switch.taps() == taps
    vms = {guard_flows.cookie(port.vm or "") for one in late for port in one.ports}
    assert guard_flows.read(switch.ofctl("dump-flows")).keys() == vms
    await asyncio.gather(*map(fabric.remove, late))
    assert switch.vsctl("list-br") == ""
    assert names.GUARD not in sh("ip", "link")


# --- the namespace


def namespace(slice_name: str = "demo", address: str = "10.0.0.1/24") -> Namespace:
    return Namespace(
        slice=slice_name, vni=VNI, address=address, mac=names.mac("10.0.0.1", VNI), mtu=1450
    )


@pytest.fixture
async def namespaces(settings: Settings, switch: Switch) -> AsyncIterator[Namespaces]:
    namespaces = Namespaces(settings)
    yield namespaces
    await namespaces.close(namespace())


async def test_opening_a_namespace_twice_gives_one_leg_with_address_mac_and_mtu(
    namespaces: Namespaces, fabric: Fabric, guests: tuple[Guest, Guest]
) -> None:
    inside = ("ip", "-n", "ccf-1001", "-oneline")
    await namespaces.open(namespace())
    first = sh(*inside, "link", "show", "inside").split(":")[0]
    await namespaces.open(namespace())
    assert sh(*inside, "link", "show", "inside").split(":")[0] == first
    assert "mtu 1450" in sh(*inside, "link", "show", "inside")
    assert names.mac("10.0.0.1", VNI) in sh(*inside, "link", "show", "inside")
    assert "tx-checksumming: off" in sh(
        "ip", "netns", "exec", "ccf-1001", "ethtool", "-k", "inside"
    )
    port = Port(name=names.inside_port(VNI), kind="system")
    await fabric.make(bridge(port, link(10)))
    guests[0].start()
    assert guests[0].reaches("10.0.0.1")


@pytest.mark.parametrize(
    "damage",
    [
        "ip -n ccf-1001 address flush dev inside",
        "ip -n ccf-1001 address add 10.7.7.7/24 dev inside",
        "ip -n ccf-1001 link set inside down mtu 1300",
        "ip link set ccf-i-1001 down",
        "ip link delete ccf-i-1001",
        "ip -n ccf-1001 link set inside name lost",
        "ip netns delete ccf-1001",
        "umount /run/netns/ccf-1001",
    ],
)
async def test_opening_completes_or_replaces_what_is_half_made(
    damage: str, namespaces: Namespaces
) -> None:
    await namespaces.open(namespace())
    sh(*damage.split())
    await namespaces.open(namespace())
    shown = sh("ip", "-n", "ccf-1001", "-oneline", "-4", "address", "show", "dev", "inside")
    assert "10.0.0.1/24" in shown
    assert "10.7.7.7" not in shown
    assert "mtu 1450" in sh("ip", "-n", "ccf-1001", "link", "show", "inside")
    assert ",UP" in sh("ip", "link", "show", "ccf-i-1001")


async def test_closing_twice_leaves_nothing_though_a_stranger_sits_in_the_namespace(
    namespaces: Namespaces, settings: Settings
) -> None:
    await namespaces.open(namespace())
    stranger = begin("ip", "netns", "exec", "ccf-1001", "sleep", "600")
    try:
        there = os.stat("/run/netns/ccf-1001")
        wait_for(lambda: os.path.samestat(os.stat(f"/proc/{stranger.pid}/ns/net"), there))
        for _ in range(2):
            await namespaces.close(namespace())
            assert "ccf-1001" not in sh("ip", "netns", "list")
            assert "ccf-i-1001" not in sh("ip", "link", "show")
        assert stranger.poll() is None
        assert not (Path(settings.network_node.state) / str(VNI)).exists()
    finally:
        stranger.kill()
        stranger.wait()


async def test_another_slices_namespace_is_refused_and_never_closed(
    namespaces: Namespaces,
) -> None:
    await namespaces.open(namespace())
    with pytest.raises(Refused, match="belongs to slice demo"):
        await namespaces.open(namespace("other"))
    await namespaces.close(namespace("other"))
    assert "ccf-1001" in sh("ip", "netns", "list")


# --- DHCP


def dhcp(
    *octets: int, router: str | None = None, mtu: int = 1450, servers: tuple[str, ...] = ()
) -> Dhcp:
    return Dhcp(
        slice="demo",
        vni=VNI,
        address="10.0.0.1/24",
        mtu=mtu,
        router=router,
        dns=servers,
        ntp=servers,
        leases=tuple(
            Lease(mac=Guest(octet).mac, ip=f"10.0.0.{octet}", name=f"vm-{octet}")
            for octet in octets
        ),
    )


@pytest.fixture
async def served(
    settings: Settings, namespaces: Namespaces, fabric: Fabric
) -> AsyncIterator[DhcpServers]:
    await namespaces.open(namespace())
    port = Port(name=names.inside_port(VNI), kind="system")
    await fabric.make(bridge(port, link(10), link(11)))
    servers = DhcpServers(settings)
    yield servers
    await servers.stop(dhcp())


def ask(guest: Guest, folder: Path, *, seconds: int = 60) -> dict[str, str] | None:
    """Ask for a lease as busybox does, once a second; None when nobody answers."""
    script = folder / "lease"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && env > "$OUT"\nexit 0\n')
    script.chmod(0o755)
    answer = folder / "answer"
    answer.unlink(missing_ok=True)
    subprocess.run(
        [
            *("ip", "netns", "exec", guest.space, "busybox", "udhcpc", "-i", "eth0", "-n", "-q"),
            *(
                "-f",
                "-t",
                str(seconds),
                "-T",
                "1",
                "-O",
                "mtu",
                "-O",
                "hostname",
                "-O",
                "ntpsrv",
                "-s",
                str(script),
            ),
        ],
        capture_output=True,
        check=False,
        timeout=2 * AMPLE,
        env={**os.environ, "OUT": str(answer)},
    )
    if not answer.exists():
        return None
    return dict(line.split("=", 1) for line in answer.read_text().splitlines() if "=" in line)


async def test_a_vm_gets_its_address_name_and_mtu_but_no_router_of_ours(
    served: DhcpServers, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    await served.serve(dhcp(10))
    guests[0].start(address=False)
    lease = ask(guests[0], tmp_path)
    assert lease is not None
    assert (lease["ip"], lease["hostname"], lease["mtu"]) == ("10.0.0.10", "vm-10", "1450")
    assert "router" not in lease
    assert "dns" not in lease
    assert "ntpsrv" not in lease
    assert [given.ip for given in served.given(VNI)] == ["10.0.0.10"]


async def test_leases_change_without_a_restart_and_back(
    served: DhcpServers, settings: Settings, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    one, two = guests
    one.start(address=False)
    two.start(address=False)
    await served.serve(dhcp(10))
    pid = (Path(settings.network_node.state) / "1001" / "pid").read_text()
    change = DhcpChange(before=dhcp(10), after=dhcp(11))
    for _ in range(2):
        await served.change(change)
    assert (ask(two, tmp_path) or {})["ip"] == "10.0.0.11"
    assert ask(one, tmp_path, seconds=4) is None
    for _ in range(2):
        await served.change_back(change)
    assert (ask(one, tmp_path) or {})["ip"] == "10.0.0.10"
    assert (Path(settings.network_node.state) / "1001" / "pid").read_text() == pid


async def test_other_options_restart_the_server_and_a_new_leg_is_served(
    served: DhcpServers,
    namespaces: Namespaces,
    fabric: Fabric,
    guests: tuple[Guest, Guest],
    tmp_path: Path,
) -> None:
    guests[0].start(address=False)
    await served.serve(dhcp(10))
    other = dhcp(10, router="10.0.0.1", mtu=1400, servers=("192.0.2.53", "192.0.2.54"))
    assert served.mark(VNI) == mark(dhcp(10))
    await served.serve(other)
    assert served.mark(VNI) == mark(other)
    lease = ask(guests[0], tmp_path)
    assert lease is not None
    assert (lease["router"], lease["mtu"]) == ("10.0.0.1", "1400")
    assert lease["dns"] == lease["ntpsrv"] == "192.0.2.53 192.0.2.54"
    sh("ip", "link", "delete", names.inside_port(VNI))
    await namespaces.open(namespace())
    await fabric.plug(ports(Port(name=names.inside_port(VNI), kind="system")))
    assert ask(guests[0], tmp_path) is not None


async def test_a_restarted_ccfd_adopts_the_server_and_ends_it(
    served: DhcpServers, settings: Settings
) -> None:
    await served.serve(dhcp(10))
    place = Path(settings.network_node.state) / "1001"
    pid = int((place / "pid").read_text())
    assert os.getsid(pid) != os.getsid(0)
    # It writes its pid before it becomes who it shall be.
    wait_for(lambda: user_of(pid) == "nobody")
    again = DhcpServers(settings)
    await again.serve(dhcp(10))
    assert int((place / "pid").read_text()) == pid
    (place / "pid").unlink()  # found though its pid file was lost
    await again.serve(dhcp(10, 11))
    for _ in range(2):
        await again.stop(dhcp())
        assert list(place.iterdir()) == [place / "slice"]
        assert not any(
            "dnsmasq.conf" in line
            for line in sh("ps", "-e", "-o", "stat,args").splitlines()
            if str(place) in line and not line.startswith("Z")
        )


async def test_a_server_that_dies_is_told_of_at_once_and_one_that_was_ended_is_not(
    served: DhcpServers, settings: Settings
) -> None:
    place = Path(settings.network_node.state) / "1001"
    told: asyncio.Queue[int] = asyncio.Queue()
    await served.serve(dhcp(10))
    watching = DhcpServers(settings, told.put_nowait)
    assert watching.mark(VNI) == mark(dhcp(10))  # a sweep adopts what an earlier ccfd started
    for _ in range(2):
        os.kill(int((place / "pid").read_text()), signal.SIGKILL)
        async with asyncio.timeout(AMPLE):
            assert await told.get() == VNI
        assert watching.mark(VNI) is None
        await watching.serve(dhcp(10))
    await watching.serve(dhcp(10, mtu=1400))  # restarts it
    await watching.stop(dhcp())
    assert told.empty()
    watching.close()


async def test_a_recycled_pid_is_never_signalled(served: DhcpServers, settings: Settings) -> None:
    await served.serve(dhcp(10))
    place = Path(settings.network_node.state) / "1001"
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    stranger = begin("sleep", "600")
    try:
        (place / "pid").write_text(f"{stranger.pid}\n")
        await served.serve(dhcp(10))
        await served.stop(dhcp())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_dhcp_without_a_namespace_is_refused(settings: Settings, switch: Switch) -> None:
    with pytest.raises(Refused, match="open it first"):
        await DhcpServers(settings).serve(dhcp())
