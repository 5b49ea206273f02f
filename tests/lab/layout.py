"""Where is everything of one lab: names, folders and addresses?"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

NODE = "node"
OUTSIDE = "outside"
SERVICES = "services"
FABRIC = "fabric"

OUTSIDE_ADDRESS = "203.0.113.254"
UNDERLAY_MTU = 1600
"""VXLAN costs 50 bytes, and what does not fit is lost in silence: no ICMP comes back."""

CLIENT_PORT_AMQP = 5672
CLIENT_PORT_SQL = 5432
OVSDB_PORT = 6640
HTTP_PORT = 8780

_RECORD = "lab.json"
_FIRST_SERVICE_OCTET = 200
# sun_path holds 108 bytes with its final NUL (unix(7)).
_LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True)
class Layout:
    """One lab's folder, its tag in names that the machine shares, its management /24."""

    dir: Path
    subnet: int
    hosts: int
    made_dir: bool = False

    @property
    def tag(self) -> str:
        """Return the short name of this lab, for the one link that the machine itself sees."""
        return tag_of(self.dir)

    @property
    def compute(self) -> tuple[str, ...]:
        """List the compute hosts, h1 first."""
        return tuple(f"h{n}" for n in range(1, self.hosts + 1))

    @property
    def switched(self) -> tuple[str, ...]:
        """List the places that run an Open vSwitch."""
        return (*self.compute, NODE)

    @property
    def places(self) -> tuple[str, ...]:
        """List everything that a command can be run in."""
        return (*self.compute, NODE, OUTSIDE, SERVICES, FABRIC)

    def number(self, place: str) -> int:
        """Return the last octet of the place's addresses; it also derives MACs and UUIDs."""
        if place in self.compute:
            return int(place[1:])
        return _FIRST_SERVICE_OCTET + (NODE, SERVICES).index(place)

    def management(self, place: str) -> str:
        """Return the address that the place is managed at."""
        return f"172.30.{self.subnet}.{self.number(place)}"

    @property
    def root_management(self) -> str:
        """Return the machine's own address on the management network."""
        return f"172.30.{self.subnet}.254"

    @property
    def root_link(self) -> str:
        """Return the link by which the machine reaches the management network."""
        return f"{self.tag}-mgt"

    def tunnel(self, place: str) -> str:
        """Return the address that the place ends tunnels at."""
        return f"172.20.0.{self.number(place)}"

    def home(self, place: str) -> Path:
        """Return the folder that holds the place's files."""
        return self.dir / place

    def namespace(self, place: str, kind: str) -> Path:
        """Return the file that keeps the place's namespace of that kind alive."""
        return self.namespaces / f"{place}.{kind}"

    @property
    def namespaces(self) -> Path:
        """Return the folder of the namespace files; it is a mount of its own while the lab is."""
        return self.dir / "ns"

    @property
    def pki(self) -> Path:
        """Return the folder with the client's certificate, as libvirt's pkipath wants it."""
        return self.dir / "pki"

    @property
    def images(self) -> Path:
        """Return the folder of disk images that ccfd serves from."""
        return self.dir / "images"

    @property
    def socket(self) -> Path:
        """Return where ccfd listens: DIR/ccfd.sock, or a short path where that is too long."""
        wished = self.dir / "ccfd.sock"
        if len(os.fsencode(wished)) <= _LONGEST_SOCKET_PATH:
            return wished
        return Path("/tmp") / f"{self.tag}.sock"

    def libvirt_uri(self, host: str) -> str:
        """Return the URI of the host's libvirt over TLS."""
        return f"qemu+tls://{self.management(host)}/system?pkipath={self.pki}"

    @property
    def amqp_url(self) -> str:
        """Return the broker's URL, good from the machine and from the network node."""
        return f"amqp://guest:guest@{self.management(SERVICES)}:{CLIENT_PORT_AMQP}/"

    @property
    def database_url(self) -> str:
        """Return the database's URL, good from the machine and from the network node."""
        return f"postgresql+asyncpg://ccfd@{self.management(SERVICES)}:{CLIENT_PORT_SQL}/ccfd"

    @property
    def http_url(self) -> str:
        """Return where ccfd will answer HTTP."""
        return f"http://{self.management(NODE)}:{HTTP_PORT}"

    @property
    def record(self) -> Path:
        """Return the file that says "this folder is a lab": written first, removed last."""
        return self.dir / _RECORD

    def save(self) -> None:
        """Write the record in one step, so that a killed `up` leaves all of it or nothing."""
        draft = self.record.with_suffix(".new")
        fields = {key: value for key, value in asdict(self).items() if key != "dir"}
        draft.write_text(json.dumps(fields) + "\n")
        draft.replace(self.record)


def tag_of(folder: Path) -> str:
    """Derive the lab's short tag from its folder, so that `down` knows it with no record."""
    return "lab" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:5]


def load(folder: Path) -> Layout | None:
    """Read back the lab of this folder; None where there is none."""
    folder = folder.resolve()
    try:
        fields = json.loads((folder / _RECORD).read_text())
    except FileNotFoundError:
        return None
    return Layout(
        dir=folder,
        subnet=int(fields["subnet"]),
        hosts=int(fields["hosts"]),
        made_dir=bool(fields["made_dir"]),
    )
