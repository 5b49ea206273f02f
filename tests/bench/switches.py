"""Where do the measurements get switches whose ports and tunnels are nobody else's?"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ccfd.settings import Settings

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_MTU = 1600
"""The underlay's, in bytes: a guest's 1500 and what VXLAN adds."""


@dataclass(frozen=True)
class Place:
    """A network namespace with an Open vSwitch (userspace datapath) of its own."""

    name: str
    folder: Path
    address: str
    """Where tunnels end."""

    @property
    def database(self) -> str:
        """Where its database listens, as the settings say it."""
        return f"unix:{self.folder}/db.sock"

    def argv(self, *words: str) -> list[str]:
        """Return a command that runs inside."""
        inside = ("ip", "netns", "exec", self.name, "env", f"OVS_RUNDIR={self.folder}")
        return [*inside, *words]

    def run(self, *words: str, timeout: float = 60) -> str:
        """Run a command inside and return what it prints."""
        return sh(*self.argv(*words), timeout=timeout)

    def vsctl(self, *words: str) -> str:
        """Ask or change the switch."""
        return self.run("ovs-vsctl", "--timeout=30", f"--db={self.database}", *words)

    def links(self, commands: Sequence[str]) -> None:
        """Carry out commands of ip(8), all at once."""
        argv = self.argv("ip", "-batch", "-")
        subprocess.run(argv, input="\n".join(commands), text=True, check=True, timeout=60)


def sh(*argv: str, timeout: float = 60) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(
        argv, check=True, stdout=subprocess.PIPE, text=True, timeout=timeout
    ).stdout


def settings_of(node: Place, *hosts: Place) -> Settings:
    """Return the settings of ccfd for these switches; hosts are called `h1`, `h2`, …."""

    def switch(place: Place) -> dict[str, str]:
        about = {"ovsdb": place.database, "tunnel_ip": place.address, "datapath_type": "netdev"}
        return about | ({"state": f"{place.folder}/state"} if place is node else {})

    called = [{"name": f"h{n}", **switch(place)} for n, place in enumerate(hosts, start=1)]
    return Settings.model_validate({"network_node": switch(node), "host": called})


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """Give a network namespace of that name."""
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        sh("ip", "netns", "delete", name)


@contextmanager
def places(*called: str) -> Iterator[list[Place]]:
    """Give a place for each name, the first the network node, joined by one wire."""
    with ExitStack() as ends, tempfile.TemporaryDirectory(prefix="ccfd-bench") as folder:
        wire = f"ccfd-bench-{os.getpid()}-wire"
        ends.enter_context(namespace(wire))
        sh("ip", "-n", wire, "link", "add", "wire", "mtu", str(_MTU), "type", "bridge")
        sh("ip", "-n", wire, "link", "set", "wire", "up")
        made = []
        for number, name in enumerate(called, start=1):
            place = Place(
                f"ccfd-bench-{os.getpid()}-{name}", Path(folder, name), f"172.20.0.{number}"
            )
            place.folder.mkdir()
            ends.enter_context(namespace(place.name))
            _start(place, ends)
            _join(place, wire, number)
            made.append(place)
        yield made


def _start(place: Place, ends: ExitStack) -> None:
    database = str(place.folder / "conf.db")
    sh("ovsdb-tool", "create", database, _SCHEMA)
    _spawn(place, ends, "ovsdb-server", database, f"--remote=p{place.database}")
    deadline = time.monotonic() + 10
    while not (place.folder / "db.sock").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("ovsdb-server does not come up")
        time.sleep(0.01)
    place.vsctl("--retry", "--no-wait", "init")
    _spawn(place, ends, "ovs-vswitchd", place.database)


def _spawn(place: Place, ends: ExitStack, program: str, *words: str) -> None:
    control = f"--unixctl={place.folder}/{program}.ctl"
    with (place.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            place.argv(program, *words, control, "-vconsole:warn"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    ends.callback(process.wait)
    ends.callback(process.kill)


def _join(place: Place, wire: str, number: int) -> None:
    """Plug a place into the wire: tunnels take their way from the address on `br-phy`."""
    end = f"und-{number}"
    sh(
        *("ip", "-n", wire, "link", "add", end, "mtu", str(_MTU), "type", "veth"),
        *("peer", "name", "und0", "mtu", str(_MTU), "netns", place.name),
    )
    sh("ip", "-n", wire, "link", "set", end, "master", "wire", "up")
    place.vsctl(
        *("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev"),
        *("--", "add-port", "br-phy", "und0"),
    )
    place.links(
        [
            "link set und0 up",
            f"address add {place.address}/24 dev br-phy",
            f"link set br-phy mtu {_MTU} up",
        ]
    )
