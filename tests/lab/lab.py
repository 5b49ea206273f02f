"""How is a lab raised, used and taken down?"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.lab import (
    agent,
    config,
    fabric,
    libvirtd,
    namespaces,
    outside,
    pki,
    postgres,
    processes,
    rabbit,
    switch,
)
from tests.lab.layout import NODE, Layout, load, tag_of
from tests.lab.shell import LabError

_MAX_HOSTS = 99


@dataclass(frozen=True, slots=True)
class Lab:
    """A testbed that is up: compute hosts h1…hN, the network node, an outside, its services."""

    layout: Layout

    @classmethod
    def up(cls, folder: Path | str, hosts: int = 2) -> Lab:
        """Raise a testbed in *folder*, in place of one that is there; returns when all answers."""
        if not 1 <= hosts <= _MAX_HOSTS:
            raise LabError(f"a lab has 1 to {_MAX_HOSTS} hosts")
        path = Path(folder).resolve()
        made_dir = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        with _alone(path), processes.marked(path):
            before = load(path)
            made_dir = made_dir or (before is not None and before.made_dir)
            _clear(path, keep_dir=True)
            _refuse_strangers(path, hosts)
            try:
                layout = _set_apart(path, hosts, made_dir)
                _start(layout)
            except BaseException:  # also a keyboard's interrupt: half a lab is of no use
                _clear(path)
                raise
        return cls(layout)

    @classmethod
    def at(cls, folder: Path | str) -> Lab:
        """Return the lab that `up` raised in *folder*."""
        layout = load(Path(folder))
        if layout is None:
            raise LabError(f"there is no lab in {folder}")
        return cls(layout)

    @property
    def env(self) -> dict[str, str]:
        """Return what DIR/env says: CCF_AMQP_URL, CCF_TOKEN and so on."""
        return config.read_environment(self.layout)

    def exec_argv(self, place: str, argv: Sequence[str]) -> list[str]:
        """Return the command that becomes *argv* inside h1, node, outside, …; the pid stays."""
        if place not in self.layout.places:
            raise LabError(f"no {place!r} here: there are {', '.join(self.layout.places)}")
        return namespaces.inside(self.layout, place, argv)

    def run(
        self, place: str, argv: Sequence[str], *, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside h1, node, outside, … to its end, and return what it said."""
        command = self.exec_argv(place, argv)
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and ended.returncode:
            raise LabError(f"{' '.join(argv)}: status {ended.returncode}: {ended.stderr.strip()}")
        return ended

    def guest(self, vm: str, argv: Sequence[str], *, timeout: float = 60) -> str:
        """Run a command inside a guest, and return what it said; raise `LabError` if it fails."""
        outcome = agent.guest(self.layout, vm, min(timeout, 30)).run(argv, timeout)
        if outcome.status:
            said = (outcome.stdout + outcome.stderr).decode(errors="replace").strip()
            raise LabError(f"{' '.join(argv)}: status {outcome.status}: {said}")
        return outcome.stdout.decode(errors="replace")

    def pids(self, place: str, program: str) -> list[int]:
        """List the pids of a program (libvirtd, ovs-vswitchd, beam.smp, …) in one place."""
        return processes.running(self.layout, place, program)

    def start(self, place: str, program: str) -> None:
        """Start a daemon of the lab again after something has ended it."""
        starters: dict[str, Callable[[], None]] = {
            "libvirtd": partial(libvirtd.start_daemon, self.layout, place),
            "ovsdb-server": partial(switch.start_database, self.layout, place),
            "ovs-vswitchd": partial(switch.start_daemon, self.layout, place),
            "rabbitmq": partial(rabbit.start_daemon, self.layout),
            "postgresql": partial(postgres.start_daemon, self.layout),
        }
        starters[program]()

    def down(self) -> None:
        """Take the testbed down and remove every trace of it; a repeat changes nothing."""
        take_down(self.layout.dir)


def take_down(folder: Path | str) -> None:
    """Remove every trace of the lab in *folder*, however far its `up` came."""
    path = Path(folder).resolve()
    if path.exists():
        with _alone(path):
            _clear(path)
    else:
        fabric.leave_root(f"{tag_of(path)}-mgt")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other `up` and `down` of this folder waiting; a killed one holds nothing."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _set_apart(path: Path, hosts: int, made_dir: bool) -> Layout:
    """Take a free subnet and make the places, with their certificates."""
    with fabric.free_subnet(int(tag_of(path)[3:], 16)) as subnet:
        layout = Layout(path, subnet, hosts, made_dir)
        layout.save()
        namespaces.prepare(layout)
        _together(
            *(partial(namespaces.make, layout, place) for place in layout.places),
            partial(pki.issue_all, layout),
        )
        fabric.reach_root(layout)
    return layout


def _start(layout: Layout) -> None:
    """Start everything that runs; what takes longest goes first."""
    fabric.build(layout)
    _together(
        partial(rabbit.start, layout),
        partial(_start_hosts, layout),
        partial(postgres.start, layout),
        partial(config.place_images, layout),
        partial(outside.start, layout),
        partial(config.write, layout),
    )


def _start_hosts(layout: Layout) -> None:
    first, *others = layout.compute
    # The first host's libvirt may have to find out what QEMU can do; the others are spared it.
    _start_host(layout, first)
    _together(
        partial(switch.start, layout, NODE),
        *(partial(_start_host, layout, host) for host in others),
    )


def _start_host(layout: Layout, host: str) -> None:
    switch.start(layout, host)
    libvirtd.start(layout, host)


def _together(*jobs: Callable[[], object]) -> None:
    """Do the jobs side by side, wait for all, and raise the first failure."""
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        running = [pool.submit(job) for job in jobs]
    for job in running:
        job.result()


def _clear(path: Path, *, keep_dir: bool = False) -> None:
    """Remove what a lab in this folder left, in an order that a repeat can take up anywhere."""
    fabric.leave_root(f"{tag_of(path)}-mgt")
    layout = load(path)
    if layout is None:
        return
    processes.end_all(layout)
    namespaces.release(layout)
    if layout.socket.parent != layout.dir:
        layout.socket.unlink(missing_ok=True)
    for name in _own_names(layout):
        _remove(path / name)
    layout.record.unlink()
    if layout.made_dir and not keep_dir and not any(path.iterdir()):
        path.rmdir()


def _own_names(layout: Layout) -> list[str]:
    files = ("ns", "pki", "images", "network", "ccfd.toml", "ccfd.sock", "env", "ssh-key-secret")
    return [*layout.places, *files, "lab.new"]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _refuse_strangers(path: Path, hosts: int) -> None:
    """Refuse a folder whose files `down` would take for the lab's own."""
    taken = [name for name in _own_names(Layout(path, 0, hosts)) if (path / name).exists()]
    if taken:
        raise LabError(f"{path} holds files that no lab made: {', '.join(taken)}")
