"""Domains, disks and images on real hosts: every effect twice, and after every crash."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import libvirt
import pytest

from ccfd import settings as ccfd_settings
from ccfd.console.closing import Closed
from ccfd.console.rfb import SHARED
from ccfd.console.wire import connect
from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.screen import Screen, TlsScreen
from ccfd.model.vm import Disk, Image, ImageOnHost, Machine
from ccfd.network.endpoints import tls_context
from ccfd.settings import Settings, Tls
from ccfd.vt import domain_xml
from ccfd.vt.hypervisors import Hypervisors
from ccfd.vt.image_source import DirectoryImages
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session
from tests.lab import Lab
from tests.lab.agent import guest
from tests.lab.shell import wait_until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes namespaces: run as root")
pytestmark = [ROOT_ONLY, pytest.mark.timeout(240)]

POOL = "/var/lib/libvirt/images"
DEADLINE = 3.0
"""Seconds for one call in the tests that freeze a host."""
AMPLE = 60.0
"""Seconds that nothing takes unless it is wrong, on the busiest of machines."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("vt") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture
def settings(lab: Lab) -> Settings:
    return ccfd_settings.load(lab.layout.dir / "ccfd.toml", {})


class Source(DirectoryImages):
    """Counts how often a file was asked for, and may give a wrong one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.opened = 0
        self.instead: Path | None = None

    async def open_path(self, image: Image) -> Path:
        self.opened += 1
        path = await super().open_path(image)
        return self.instead or path


@pytest.fixture
def source(lab: Lab) -> Source:
    return Source(lab.layout.images)


@pytest.fixture
async def hypervisors(settings: Settings, source: Source) -> AsyncIterator[Hypervisors]:
    made = Hypervisors(settings, source)
    yield made
    await made.close()


@pytest.fixture
async def hasty(settings: Settings, source: Source) -> AsyncIterator[Hypervisors]:
    """Give up on a call after `DEADLINE` seconds."""
    hypervisor = settings.hypervisor.model_copy(update={"call_timeout": DEADLINE})
    made = Hypervisors(settings.model_copy(update={"hypervisor": hypervisor}), source)
    yield made
    await made.close()


@pytest.fixture
async def image(source: Source) -> Image:
    (image,) = [one for one in (await source.list()).images if one.name == "tiny"]
    return image


@pytest.fixture
def vm() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def disk(vm: str, image: Image) -> Disk:
    return Disk(
        host="h1", vm=vm, image=image, size=1, hostname="web", ssh_keys=("ssh-ed25519 AAAA me",)
    )


@pytest.fixture
async def machine(
    vm: str, disk: Disk, image: Image, hypervisors: Hypervisors
) -> AsyncIterator[Machine]:
    """Give a machine whose disk is made, and leave nothing of it."""
    await hypervisors.images.fetch(ImageOnHost(host="h1", image=image))
    await hypervisors.disks.make(disk)
    machine = Machine(
        host="h1",
        vm=vm,
        name="web",
        slice="demo",
        kind="slice",
        cpu=1,
        ram=128,
        mac="02:01:0a:00:00:02",
        tap=names.tap(vm),
        mtu=1450,
    )
    yield machine
    await hypervisors.domains.destroy(machine)
    await hypervisors.disks.remove(disk)


def pool_of(lab: Lab, host: str = "h1") -> Path:
    """Return where this machine sees the host's pool; ccfd itself never looks there."""
    return lab.layout.home(host) / "lib-libvirt" / "images"


def files(lab: Lab, part: str, host: str = "h1") -> set[str]:
    return {path.name for path in pool_of(lab, host).iterdir() if part in path.name}


def virsh(lab: Lab, *words: str) -> str:
    command = ["virsh", "-q", "-c", lab.layout.libvirt_uri("h1"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=90
    ).stdout.strip()


def image_info(path: Path) -> str:
    command = ["qemu-img", "info", "-U", "--output=json", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def forget(lab: Lab, image: Image, host: str = "h1") -> None:
    for name in files(lab, image.checksum, host):
        (pool_of(lab, host) / name).unlink()


async def stubbornly(effect: Callable[[], Awaitable[None]]) -> None:
    """Carry out *effect* as a workflow does: again, for as long as the error may pass."""
    for _ in range(50):
        try:
            return await effect()
        except Transient as exc:
            await asyncio.sleep(exc.retry_in or 0.2)
    raise TimeoutError("fifty attempts were not enough")


# --- images ---------------------------------------------------------------------------------


async def test_an_image_is_sent_once(
    lab: Lab, hypervisors: Hypervisors, source: Source, image: Image
) -> None:
    forget(lab, image, "h2")
    wanted = ImageOnHost(host="h2", image=image)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(hypervisors.images.fetch(wanted))
    await hypervisors.images.fetch(wanted)
    assert source.opened == 1
    sent = pool_of(lab, "h2") / names.image_volume(image.checksum)
    assert sent.read_bytes() == (lab.layout.images / "tiny.qcow2").read_bytes()


@pytest.mark.parametrize("length", [0, 100_000, -1], ids=["empty", "part", "whole"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "overlooked"])
async def test_an_image_without_its_mark_is_sent_again(
    lab: Lab, hypervisors: Hypervisors, image: Image, length: int, known: bool
) -> None:
    wanted = ImageOnHost(host="h1", image=image)
    await hypervisors.images.fetch(wanted)
    forget(lab, image)
    content = (lab.layout.images / "tiny.qcow2").read_bytes()
    half = pool_of(lab) / names.image_volume(image.checksum)
    half.write_bytes(b"\xff" * len(content) if length < 0 else content[:length])
    if known:
        virsh(lab, "pool-refresh", "ccf-images")
    await hypervisors.images.fetch(wanted)
    assert half.read_bytes() == content
    assert files(lab, image.checksum) == {half.name, f"{half.name}.ok"}


async def test_an_image_that_is_cut_short_is_sent_again_despite_its_mark(
    lab: Lab, hypervisors: Hypervisors, image: Image
) -> None:
    wanted = ImageOnHost(host="h1", image=image)
    await hypervisors.images.fetch(wanted)
    path = pool_of(lab) / names.image_volume(image.checksum)
    os.truncate(path, 4096)
    await hypervisors.images.fetch(wanted)
    assert path.read_bytes() == (lab.layout.images / "tiny.qcow2").read_bytes()


async def test_bytes_that_are_not_the_images_leave_nothing(
    lab: Lab, hypervisors: Hypervisors, source: Source, image: Image, tmp_path: Path
) -> None:
    forget(lab, image, "h2")
    source.instead = tmp_path / "other"
    shutil.copy(lab.layout.images / "tiny.qcow2", source.instead)
    with source.instead.open("ab") as end:
        end.write(b"!")
    with pytest.raises(Refused) as refused:
        await hypervisors.images.fetch(ImageOnHost(host="h2", image=image))
    assert refused.value.code == "image_corrupt"
    assert files(lab, image.checksum, "h2") == set()


async def test_two_daemons_that_send_the_same_image_both_end_well(
    lab: Lab, settings: Settings, source: Source, image: Image, hypervisors: Hypervisors
) -> None:
    forget(lab, image)
    other = Hypervisors(settings, source)
    wanted = ImageOnHost(host="h1", image=image)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stubbornly(lambda: hypervisors.images.fetch(wanted)))
            group.create_task(stubbornly(lambda: other.images.fetch(wanted)))
    finally:
        await other.close()
    sent = pool_of(lab) / names.image_volume(image.checksum)
    assert sent.read_bytes() == (lab.layout.images / "tiny.qcow2").read_bytes()


async def test_an_image_goes_in_two_strides_and_not_from_under_a_disk(
    lab: Lab, hypervisors: Hypervisors, disk: Disk, image: Image
) -> None:
    images, checksum = hypervisors.images, image.checksum
    wanted, above = ImageOnHost(host="h2", image=image), dataclasses.replace(disk, host="h2")
    await images.fetch(wanted)
    await hypervisors.disks.make(above)
    assert await images.inventory("h2") == {checksum: True}
    assert not await images.retire("h2", checksum)
    await hypervisors.disks.remove(above)
    assert not await images.remove("h2", checksum)
    assert await images.retire("h2", checksum)
    assert await images.inventory("h2") == {checksum: False}
    with pytest.raises(Refused, match="not whole"):
        await hypervisors.disks.make(above)
    await images.fetch(wanted)
    await hypervisors.disks.make(above)
    (pool_of(lab, "h2") / f"{names.image_volume(checksum)}.ok").unlink()
    assert not await images.remove("h2", checksum)
    await hypervisors.disks.remove(above)
    for _ in range(2):
        assert await images.remove("h2", checksum)
    assert (await images.inventory("h2"), files(lab, checksum, "h2")) == ({}, set())


# --- disks ----------------------------------------------------------------------------------


async def test_a_disk_is_made_once_and_removed_without_a_trace(
    lab: Lab, hypervisors: Hypervisors, disk: Disk, image: Image
) -> None:
    await hypervisors.images.fetch(ImageOnHost(host="h1", image=image))
    await hypervisors.disks.make(disk)
    made = {path.name: path.stat().st_ino for path in pool_of(lab).glob(f"ccf-{disk.vm}*")}
    log = names.serial_log(disk.vm)
    assert set(made) == {names.disk_volume(disk.vm), names.seed_volume(disk.vm), log}
    assert (pool_of(lab) / log).stat().st_mode & 0o777 == 0o600
    await hypervisors.disks.make(disk)
    assert made == {path.name: path.stat().st_ino for path in pool_of(lab).glob(f"ccf-{disk.vm}*")}
    # As virtlogd leaves behind what a talkative guest wrote.
    for number in range(3):
        (pool_of(lab) / f"{log}.{number}").write_bytes(b"more")
    for _ in range(2):
        await hypervisors.disks.remove(disk)
        assert files(lab, disk.vm) == set()


@pytest.mark.parametrize("crash", ["short overlay", "no overlay", "short seed", "overlooked"])
async def test_a_half_made_disk_is_replaced(
    lab: Lab, hypervisors: Hypervisors, machine: Machine, disk: Disk, crash: str
) -> None:
    overlay, seed = (
        pool_of(lab) / names.disk_volume(disk.vm),
        pool_of(lab) / names.seed_volume(disk.vm),
    )
    whole = seed.read_bytes()
    if crash == "no overlay":
        overlay.unlink()
    elif crash == "short overlay":
        os.truncate(overlay, 60)
    elif crash == "short seed":
        os.truncate(seed, 1000)
    else:
        await hypervisors.disks.remove(disk)
        overlay.write_bytes(b"half")
        seed.write_bytes(whole[:5000])
    await hypervisors.disks.make(disk)
    assert seed.read_bytes() == whole
    told = image_info(overlay)
    assert '"virtual-size": 1073741824' in told
    assert names.image_volume(disk.image.checksum) in told
    await hypervisors.domains.boot(machine)


async def test_a_seed_with_another_key_replaces_the_old_one(
    lab: Lab, hypervisors: Hypervisors, machine: Machine, disk: Disk
) -> None:
    await hypervisors.disks.make(dataclasses.replace(disk, ssh_keys=("ssh-ed25519 BBBB me",)))
    assert b"BBBB" in (pool_of(lab) / names.seed_volume(machine.vm)).read_bytes()


async def test_a_disk_without_its_image_is_refused(
    lab: Lab, hypervisors: Hypervisors, disk: Disk, image: Image
) -> None:
    forget(lab, image)
    with pytest.raises(Refused) as refused:
        await hypervisors.disks.make(disk)
    assert refused.value.code == "image_not_found"
    assert files(lab, disk.vm) == set()


# --- domains --------------------------------------------------------------------------------


async def test_a_domain_is_started_once_and_destroyed_without_a_trace(
    lab: Lab, hypervisors: Hypervisors, machine: Machine
) -> None:
    assert await hypervisors.domains.boot(machine) == {"state": "running"}
    run = virsh(lab, "domid", machine.vm)
    assert await hypervisors.domains.boot(machine) == {"state": "running"}
    assert virsh(lab, "domid", machine.vm) == run
    assert "mtu 1450" in lab.run("h1", ["ip", "link", "show", machine.tap]).stdout
    assert await hypervisors.domains.state("h1", machine.vm) == "running"
    for _ in range(2):
        await hypervisors.domains.destroy(machine)
        assert await hypervisors.domains.state("h1", machine.vm) is None
    assert machine.tap not in lab.run("h1", ["ip", "link"]).stdout
    left = lab.layout.home("h1") / "lib-libvirt" / "qemu"
    assert not [path for path in left.rglob("*") if machine.vm[:8] in path.name]


async def test_a_guest_is_told_its_name_and_keys_by_its_seed(
    lab: Lab, hypervisors: Hypervisors, machine: Machine
) -> None:
    await hypervisors.domains.boot(machine)

    def ask(line: str) -> str:
        return guest(lab.layout, machine.vm, 60).run([line], 20).stdout.decode()

    told = await asyncio.to_thread(ask, "hostname; cat /root/.ssh/authorized_keys")
    assert told.splitlines() == ["web", "ssh-ed25519 AAAA me"]


@pytest.mark.parametrize("crash", ["defined", "undefined while running", "paused", "shut off"])
async def test_a_domain_that_was_left_halfway_is_made_to_run(
    lab: Lab, hypervisors: Hypervisors, machine: Machine, crash: str
) -> None:
    if crash == "defined":
        define(lab, machine)
    else:
        await hypervisors.domains.boot(machine)
    if crash == "undefined while running":
        virsh(lab, "undefine", machine.vm)
    elif crash == "paused":
        virsh(lab, "suspend", machine.vm)
    elif crash == "shut off":
        virsh(lab, "destroy", machine.vm)
    await hypervisors.domains.boot(machine)
    assert await hypervisors.domains.state("h1", machine.vm) == "running"
    assert "Persistent:     yes" in virsh(lab, "dominfo", machine.vm)


async def test_a_domain_that_differs_is_replaced(
    lab: Lab, hypervisors: Hypervisors, machine: Machine
) -> None:
    await hypervisors.domains.boot(machine)
    await hypervisors.domains.boot(dataclasses.replace(machine, ram=160))
    assert "163840 KiB" in virsh(lab, "dominfo", machine.vm)


@pytest.mark.parametrize("crash", ["defined", "undefined while running", "paused"])
async def test_a_domain_that_was_left_halfway_is_destroyed(
    lab: Lab, hypervisors: Hypervisors, machine: Machine, crash: str
) -> None:
    if crash == "defined":
        define(lab, machine)
    else:
        await hypervisors.domains.boot(machine)
        word = "undefine" if crash == "undefined while running" else "suspend"
        virsh(lab, word, machine.vm)
    await hypervisors.domains.destroy(machine)
    assert machine.vm not in virsh(lab, "list", "--all", "--uuid")


async def test_a_strangers_domain_is_left_alone(
    lab: Lab, hypervisors: Hypervisors, machine: Machine
) -> None:
    connection = libvirt.open(lab.layout.libvirt_uri("h1"))
    connection.defineXML(
        f"<domain type='qemu'><name>theirs</name><uuid>{machine.vm}</uuid>"
        "<memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    try:
        for effect in (hypervisors.domains.boot, hypervisors.domains.destroy):
            with pytest.raises(Refused, match="left alone"):
                await effect(machine)
        assert await hypervisors.domains.inventory("h1") == ()
        assert virsh(lab, "domstate", "theirs") == "shut off"
    finally:
        virsh(lab, "undefine", "theirs")
        connection.close()


async def test_the_inventory_tells_whose_each_domain_is(
    hypervisors: Hypervisors, machine: Machine
) -> None:
    await hypervisors.domains.boot(machine)
    (found,) = await hypervisors.domains.inventory("h1")
    assert (found.vm, found.state) == (machine.vm, "running")
    assert (found.owner.slice, found.owner.name, found.owner.kind, found.owner.mac) == (
        "demo",
        "web",
        "slice",
        machine.mac,
    )
    assert await hypervisors.domains.inventory("h2") == ()


# --- hosts ----------------------------------------------------------------------------------


async def test_capacity_is_what_the_settings_or_the_host_say(
    settings: Settings, source: Source, hypervisors: Hypervisors
) -> None:
    told = await hypervisors.capacity("h1")
    assert (told.cpu, told.ram, told.disk) == (16, 8192, 200)
    asked = settings.host[0].model_copy(update={"cpu": None, "ram": None, "disk": None})
    other = Hypervisors(settings.model_copy(update={"host": (asked,)}), source)
    found = await other.capacity("h1")
    await other.close()
    assert found.cpu == os.cpu_count()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.ram == pytest.approx(total / 2**20, rel=0.01)
    assert found.disk > 0


async def test_an_unknown_host_is_refused(hypervisors: Hypervisors) -> None:
    with pytest.raises(Refused) as refused:
        await hypervisors.probe("nowhere")
    assert refused.value.code == "host_not_found"


async def test_a_pool_of_that_directory_is_used_whatever_its_name(
    lab: Lab, hypervisors: Hypervisors, machine: Machine, disk: Disk
) -> None:
    virsh(lab, "pool-destroy", "ccf-images")
    virsh(lab, "pool-undefine", "ccf-images")
    virsh(lab, "pool-define-as", "theirs", "dir", "--target", POOL)
    try:
        await hypervisors.disks.make(disk)
        assert virsh(lab, "pool-list", "--all", "--name").split() == ["theirs"]
    finally:
        virsh(lab, "pool-destroy", "theirs")
        virsh(lab, "pool-undefine", "theirs")
    await hypervisors.disks.make(disk)
    assert virsh(lab, "pool-list", "--name").split() == ["ccf-images"]


def define(lab: Lab, machine: Machine) -> None:
    connection = libvirt.open(lab.layout.libvirt_uri("h1"))
    connection.defineXML(domain_xml.definition(machine, POOL, "qemu"))
    connection.close()


def start_again(lab: Lab) -> None:
    wait_until(lambda: not lab.pids("h1", "libvirtd"), "the killed libvirtd to be gone")
    lab.start("h1", "libvirtd")


def libvirtd(lab: Lab, host: str = "h1") -> int:
    (pid,) = lab.pids(host, "libvirtd")
    return pid


@pytest.mark.parametrize("frozen_for", [DEADLINE + 0.5, DEADLINE + 6], ids=["short", "long"])
async def test_what_a_frozen_host_does_when_it_wakes_does_not_outlive_the_undo(
    lab: Lab, machine: Machine, hasty: Hypervisors, frozen_for: float
) -> None:
    pid = libvirtd(lab)

    def create_when_frozen(session: Session) -> None:
        domain = session.connection.defineXML(domain_xml.definition(machine, POOL, "qemu"))
        os.kill(pid, signal.SIGSTOP)
        domain.create()

    lane: Lane = hasty.lanes["h1"]
    await hasty.probe("h1")
    started = time.monotonic()
    try:
        with pytest.raises(Transient) as unreachable:
            await lane.effect(machine.vm, DEADLINE, create_when_frozen)
        assert unreachable.value.code == "host_unreachable"
        # Its deadline ended it, for the host is frozen still, and holds up no other.
        async with asyncio.timeout(AMPLE):
            while not await hasty.probe("h2"):
                await asyncio.sleep(0.1)
            assert await hasty.domains.inventory("h2") == ()
        with pytest.raises(Transient) as still:
            await hasty.domains.destroy(machine)
        assert still.value.code == "host_unreachable"
        await asyncio.sleep(max(0.0, started + frozen_for - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
    await stubbornly(lambda: hasty.domains.destroy(machine))
    await asyncio.sleep(2)
    assert machine.vm not in virsh(lab, "list", "--all", "--uuid")


async def test_connecting_to_a_frozen_host_ends_at_the_deadline(
    lab: Lab, hasty: Hypervisors
) -> None:
    pid = libvirtd(lab)
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(AMPLE):
            with pytest.raises(Transient) as unreachable:
                await hasty.domains.inventory("h1")
        assert unreachable.value.code == "host_unreachable"
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(AMPLE):
        while not await hasty.probe("h1"):
            await asyncio.sleep(0.1)
    assert await hasty.domains.inventory("h1") == ()


async def test_a_libvirtd_that_was_killed_is_used_again_when_it_is_back(
    lab: Lab, hypervisors: Hypervisors, machine: Machine
) -> None:
    await hypervisors.domains.boot(machine)
    os.kill(libvirtd(lab), signal.SIGKILL)
    await asyncio.to_thread(start_again, lab)
    async with asyncio.timeout(AMPLE):
        while not await hypervisors.probe("h1"):
            await asyncio.sleep(0.1)
    assert await hypervisors.domains.state("h1", machine.vm) == "running"


async def test_a_screen_is_seen_and_a_serial_console_used(
    lab: Lab, settings: Settings, hypervisors: Hypervisors, source: Source, machine: Machine
) -> None:
    """Over TLS, as from another machine; the screen also as on the same one."""
    vm = machine.vm
    await hypervisors.domains.boot(machine)
    screen = await hypervisors.screens.find("h1", vm)
    assert isinstance(screen, TlsScreen)
    assert screen.host == lab.layout.management("h1")
    await shows_its_name(screen, settings, vm)

    lies = dataclasses.replace(screen, host="localhost")
    with pytest.raises(Closed):
        await connect(lies, partial(tls_context, settings.tls))
    stranger = Tls(ca=settings.tls.ca)
    with pytest.raises(Refused):
        await connect(screen, partial(tls_context, stranger))

    here = settings.host[0].model_copy(
        update={
            "vnc": "unix",
            "libvirt": f"qemu+unix:///system?socket={lab.layout.home('h1')}/run/libvirt/libvirt-sock",
        }
    )
    local = Hypervisors(settings.model_copy(update={"host": (here,)}), source)
    await shows_its_name(await local.screens.find("h1", vm), settings, vm)
    await local.close()

    async with asyncio.timeout(60):
        while b"BOOTED web" not in await hypervisors.serial_logs.read("h1", vm):
            await asyncio.sleep(0.5)
    heard, ended = bytearray(), asyncio.Event()
    line = await hypervisors.serials.open("h1", vm, heard.extend, ended.set)
    with pytest.raises(Refused, match="open elsewhere"):
        await hypervisors.serials.open("h1", vm, heard.extend, ended.set)
    async with asyncio.timeout(AMPLE):
        while b"answer=42" not in heard:
            line.send(b"echo answer=$((6*7))\r")
            await asyncio.sleep(0.5)
        while b"answer=42" not in await hypervisors.serial_logs.read("h1", vm):
            await asyncio.sleep(0.1)
    line.pause()
    line.resume()
    await hypervisors.domains.power_off(machine)
    async with asyncio.timeout(AMPLE):
        await ended.wait()
    line.close()
    with pytest.raises(Refused, match="off"):
        await hypervisors.screens.find("h1", vm)
    with pytest.raises(Refused, match="off"):
        await hypervisors.serials.open("h1", vm, heard.extend, ended.set)
    assert await hypervisors.serial_logs.read("h1", vm), "what it said last can still be read"
    assert await hypervisors.serial_logs.read("h1", str(uuid.uuid4())) == b""


async def shows_its_name(screen: Screen, settings: Settings, vm: str) -> None:
    wire = await connect(screen, partial(tls_context, settings.tls))
    await wire.send(SHARED)
    async with asyncio.timeout(AMPLE):
        init = b""
        while not init.endswith(f"QEMU ({names.domain(vm)})".encode()):
            init += await wire.hear()
    wire.abort()
