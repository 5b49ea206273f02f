"""The settings: `/etc/ccfd/ccfd.toml`, overridden by `CCFD_SECTION__KEY`, read once at start.

One frozen model a section. Unknown keys are errors. A key that ends in `_file` names a file that
holds the value of the key without the ending (a systemd credential, say), read at start.
"""

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretBytes,
    ValidationError,
    field_validator,
    model_validator,
)

from ccfd.errors import Refused
from ccfd.model import names

DEFAULT_PATH = Path("/etc/ccfd/ccfd.toml")
ENVIRONMENT_PREFIX = "CCFD_"
SHORTEST_SECRET = 8

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Seconds = Annotated[float, Field(gt=0)]
Role = Literal["viewer", "portal", "operator"]


class Section(BaseModel):
    """A section of the file: frozen, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Broker(Section):
    """RabbitMQ."""

    url: str = "amqp://guest:guest@127.0.0.1:5672/"
    """AMQP URL; empty: run without a broker, events come by HTTP only."""
    prefetch: Annotated[int, Field(ge=1, le=4096)] = 256
    """Messages taken from the broker and not yet stored."""


class Database(Section):
    """PostgreSQL, or the embedded SQLite for one daemon on one machine."""

    url: str = "sqlite+aiosqlite:////var/lib/ccfd/ccfd.db"
    """`postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`."""
    pool: Annotated[int, Field(ge=2, le=256)] = 16
    """Connections at most (PostgreSQL)."""


class Token(Section):
    """Who may call the API over TCP."""

    name: Name
    """For the logs."""
    role: Role
    """`viewer`, `portal` or `operator`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hex SHA-256 of the bearer token: `printf %s TOKEN | sha256sum`."""


class Http(Section):
    """The API, metrics and health."""

    listen: str = "127.0.0.1:8780"
    """Address and port; empty: the UNIX socket only."""
    socket: str = "/run/ccfd/ccfd.sock"
    """UNIX socket, mode 0660: whoever may open it is an operator. Empty: none."""
    public_url: str = "http://127.0.0.1:8780"
    """How browsers reach the API."""
    token: tuple[Token, ...] = ()
    """Bearer tokens."""

    @field_validator("listen")
    @classmethod
    def _has_port(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        if listen and not (colon and host and port.isdecimal()):
            raise ValueError("must be ADDRESS:PORT, for example 127.0.0.1:8780")
        return listen


class Ipam(Section):
    """Address management."""

    timeout: Annotated[int, Field(ge=1)] = 120
    """Seconds that an unconfirmed subnet is held when a request names no timeout."""


class Network(Section):
    """An address pool."""

    cidr: str
    """`10.0.0.0/8`; for types 0 and 2 the address part is the first address that is given out."""
    type: Literal[0, 1, 2]
    """0: addresses for controllers; 1: blocks for slices; 2: outside addresses for gateways."""
    island: Name = "default"
    """The site that it serves."""
    gateway: str | None = None
    """Type 2: the router that gateways send outside traffic to."""

    @field_validator("cidr")
    @classmethod
    def _is_ipv4(cls, cidr: str) -> str:
        ipaddress.IPv4Interface(cidr)
        return cidr

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        interface = ipaddress.IPv4Interface(self.cidr)
        if self.type == 1 and interface.ip != interface.network.network_address:
            raise ValueError(f"a type 1 network starts at its first address: {interface.network}")
        if self.type == 1 and interface.network.prefixlen > 26:
            raise ValueError("a type 1 network holds blocks of 64 addresses: /26 or larger")
        if self.gateway is not None and ipaddress.IPv4Address(self.gateway) not in (
            interface.network
        ):
            raise ValueError(f"gateway {self.gateway} is not in {interface.network}")
        return self


class NetworkNode(Section):
    """This machine: where tunnels, DHCP servers and gateways of all slices end."""

    tunnel_ip: str = "127.0.0.1"
    """Where this machine ends tunnels."""
    external_interface: str = "br-ext"
    """The OVS bridge or Linux interface that gateways go out by."""
    ovsdb: str = "unix:/run/openvswitch/db.sock"
    """The switch's database: `unix:PATH`, `tcp:HOST:PORT` or `ssl:HOST:PORT`."""
    openflow: str | None = None
    """Where the switch's guard takes flows: `unix:PATH`, `tcp:ADDRESS:PORT` or `ssl:ADDRESS:PORT`.
    By default beside the database: its socket's directory, or its address (or `tunnel_ip`, where
    `ovsdb` has a name) with port 6653."""
    datapath_type: Literal["system", "netdev"] = "system"
    """`netdev` for the userspace datapath."""
    underlay_mtu: Annotated[int, Field(ge=626, le=65535)] = 1500
    """MTU in bytes of the network that carries the tunnels; VMs get 50 less."""
    state: str = "/var/lib/ccfd/network"
    """Directory for the files of DHCP servers."""
    dns: tuple[str, ...] = ()
    """Name servers that DHCP hands out to slices that have a gateway to reach them by."""
    ntp: tuple[str, ...] = ()
    """Time servers, likewise."""

    @field_validator("dns", "ntp")
    @classmethod
    def _are_ipv4(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            ipaddress.IPv4Address(server)  # DHCP's options hold addresses, no names: RFC 2132
        return servers


class Host(Section):
    """A compute host. Nothing of ours is installed there."""

    name: Name
    """How requests and documents call it."""
    island: Name = "default"
    """Its site."""
    libvirt: str = "qemu:///system"
    """libvirt's URI."""
    ovsdb: str = "unix:/run/openvswitch/db.sock"
    """The switch's database: `unix:PATH`, `tcp:HOST:PORT` or `ssl:HOST:PORT`."""
    openflow: str | None = None
    """Where the switch's guard takes flows: `unix:PATH`, `tcp:ADDRESS:PORT` or `ssl:ADDRESS:PORT`.
    By default beside the database: its socket's directory, or its address (or `tunnel_ip`, where
    `ovsdb` has a name) with port 6653."""
    datapath_type: Literal["system", "netdev"] = "system"
    """`netdev` for the userspace datapath."""
    tunnel_ip: str
    """Where the host ends tunnels."""
    vnc: Literal["unix", "tls"] = "unix"
    """How ccfd reaches the VMs' screens."""
    cpu: Annotated[int, Field(ge=1)] | None = None
    """vCPUs, in place of what libvirt reports."""
    ram: Annotated[int, Field(ge=1)] | None = None
    """MiB, in place of what libvirt reports."""
    disk: Annotated[int, Field(ge=1)] | None = None
    """GiB, in place of what libvirt reports of the pool."""

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if names.is_reserved(name):
            raise ValueError(f"{name!r} means the network node; call the host something else")
        return name


class Tls(Section):
    """Certificates for OVSDB (`ssl:`) and VNC; libvirt takes its own from the URI (`pkipath`)."""

    ca: str | None = None
    """CA certificates, PEM."""
    cert: str | None = None
    """ccfd's certificate, PEM."""
    key: str | None = None
    """ccfd's private key, PEM."""


class Console(Section):
    """VM screens in a browser."""

    ticket_timeout: Seconds = 60
    """Seconds that a ticket may wait to be used."""
    idle_timeout: Seconds = 3600
    """Seconds without a byte in either direction after which a console is closed."""
    sessions: Annotated[int, Field(ge=1, le=4096)] = 256
    """Consoles that this ccfd serves at once."""
    sessions_per_vm: Annotated[int, Field(ge=1, le=256)] = 8
    """Consoles of one VM at once, whichever ccfd serves them."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may open consoles beside `[http] public_url`'s."""
    record: bool = False
    """Keep what sessions show, each in a file of its own."""
    recordings: Path = Path("/var/lib/ccfd/recordings")
    """Where those files are put; nobody else may read them."""
    recording_mib: Annotated[int, Field(ge=1, le=1048576)] = 256
    """MiB of a session's file at most; then the session ends, and another can be opened."""
    recording_days: Annotated[int, Field(ge=0)] = 30
    """Days after which a session's file is removed; 0: never."""
    assets: Path | None = None
    """Where noVNC and xterm.js are; by default `share/ccfd/console` of ccfd's own Python."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_http, origins))


class Hypervisor(Section):
    """How VMs are run."""

    domain_type: Literal["auto", "kvm", "qemu"] = "auto"
    """`auto`: kvm where the host offers it, else qemu."""
    pool: str = "/var/lib/ccfd/images"
    """Directory on every host for base images and disks."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Calls to one host's libvirt at once."""
    call_timeout: Seconds = 60
    """Seconds that one call to libvirt may take."""
    shutdown_grace: Annotated[float, Field(ge=0)] = 30
    """Seconds that a guest has to shut down before its power is cut; half of
    `[workflow] step_timeout` where that is less."""
    serial_log: bool = True
    """Keep what VMs write to their serial consoles in the pool, for who looks later. Hosts need
    virtlogd, which bounds it (`stdio_handler = "logd"` in qemu.conf, libvirt's default)."""


Policy = Literal["spread", "pack"]


class Scheduler(Section):
    """Which hosts VMs are placed on, and how much of a host is given out."""

    placement: Policy = "spread"
    """`spread`: on the emptiest host; `pack`: on the fullest that has room."""
    cpu_overcommit: Annotated[float, Field(gt=0)] = 4.0
    """vCPUs for each that the host has."""
    ram_overcommit: Annotated[float, Field(gt=0)] = 1.0
    """MiB for each that the host has."""
    disk_overcommit: Annotated[float, Field(gt=0)] = 1.0
    """GiB for each that the host has."""


class Images(Section):
    """Where base images come from: Glance, a directory, or nowhere."""

    glance_url: str | None = None
    """Where Glance is served, for example `http://127.0.0.1:9292`; `/v2` is added."""
    token: str | None = None
    """A token that Glance takes, where there is no `[keystone]`."""
    cache: str = "/var/lib/ccfd/image-cache"
    """Directory of this machine that images from Glance are kept in on their way to hosts."""
    directory: str | None = None
    """A directory with qcow2 files: `tiny.qcow2` is the image `tiny`."""
    unused_after: Annotated[float, Field(ge=0)] = 604800
    """Seconds that an image may lie on a host, or in the cache, with no use before it is removed;
    0: it stays."""

    @field_validator("glance_url", "directory", "token", mode="before")
    @classmethod
    def _is_said(cls, value: object) -> object:
        """Take an empty text for none: so the environment can take back what the file says."""
        return None if value == "" else value

    @field_validator("glance_url")
    @classmethod
    def _is_base(cls, url: str | None) -> str | None:
        return None if url is None else _http(url).removesuffix("/v2")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.glance_url is not None and self.directory is not None:
            raise ValueError("glance_url or directory: images come from one of them")
        if self.token is not None and self.glance_url is None:
            raise ValueError("the token is for Glance: set glance_url, or remove it")
        return self


class Keystone(Section):
    """Who ccfd is to Glance: a user of Keystone (v3) with a password."""

    url: str | None = None
    """Where Keystone is served, for example `http://127.0.0.1:5000/v3`. None: it is not asked."""
    username: str = ""
    """The user."""
    password: str = ""
    """The user's password."""
    project: str = ""
    """The project whose images are seen, beside those that all may see."""
    user_domain: str = "Default"
    """The name of the user's domain."""
    project_domain: str = "Default"
    """The name of the project's domain."""

    @field_validator("url")
    @classmethod
    def _is_base(cls, url: str | None) -> str | None:
        return None if url is None else _http(url).removesuffix("/v3")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.url is not None:
            for key in ("username", "password", "project"):
                if not getattr(self, key):
                    raise ValueError(f"{key} is missing: Keystone asks for it")
        return self


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must be a URL that begins with http:// or https://")
    return url.rstrip("/")


class Flavor(Section):
    """A size of VM, imported at the first start that sees its name."""

    name: Name
    """How requests call it."""
    cpu: Annotated[int, Field(ge=1, le=1024)]
    """vCPUs."""
    ram: Annotated[int, Field(ge=1)]
    """MiB."""
    disk: Annotated[int, Field(ge=1)]
    """GiB."""
    bandwidth: Annotated[int, Field(ge=1, le=34_000)] | None = None
    """Mbit/s, each way; without it there is no limit."""


class Slices(Section):
    """Defaults of slices."""

    expires_in: Annotated[int, Field(ge=1)] = 2592000
    """Seconds that a slice lives when its request does not say."""
    controller_flavor: Name = "tiny"
    """The flavor of controller VMs."""
    ssh_key_secret: SecretBytes | None = None
    """Encrypts the slices' private SSH keys in the database; without it slices get no key. Of
    several lines the first encrypts, and each decrypts. What is no text is one secret."""
    sampling: Annotated[int, Field(ge=1, le=65_535)] = 64
    """Of so many packets one is told a slice's collectors of sFlow and IPFIX, by chance."""
    polling: Annotated[int, Field(ge=1, le=3600)] = 20
    """Seconds after which sFlow tells counters again, and IPFIX its flows."""
    vni: tuple[int, int] = (1, 16777215)
    """First and last VXLAN network identifier that may be used."""

    @field_validator("vni")
    @classmethod
    def _is_range(cls, vni: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= vni[0] <= vni[1] <= 0xFFFFFF:
            raise ValueError("must be [first, last] within 1..16777215")
        return vni

    @field_validator("ssh_key_secret")
    @classmethod
    def _cannot_be_guessed(cls, secret: SecretBytes | None) -> SecretBytes | None:
        found = _secrets(secret)
        if secret is not None and (not found or min(map(len, found)) < SHORTEST_SECRET):
            raise ValueError(
                f"each line must have {SHORTEST_SECRET} bytes or more that nobody can guess:"
                " `openssl rand -base64 32` makes one"
            )
        return secret

    @property
    def ssh_key_secrets(self) -> tuple[bytes, ...]:
        """The lines of `ssh_key_secret`, the one that encrypts first; empty where it is not set."""
        return _secrets(self.ssh_key_secret)


def _secrets(secret: SecretBytes | None) -> tuple[bytes, ...]:
    if secret is None:
        return ()
    content = secret.get_secret_value()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        # Random bytes: a byte that is a line feed divides nothing.
        return (content,)
    return tuple(line.strip() for line in content.splitlines() if line.strip())


class Workflow(Section):
    """How requests are carried out."""

    retention_days: Annotated[int, Field(ge=1)] = 30
    """Days that ended requests are remembered."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 64
    """Workflows that act on hosts at once."""
    step_timeout: Seconds = 120
    """Seconds that one step may take, its retries not included."""
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """Times that a step is tried again after a passing error; thrice as many for one whose failure
    would leave something behind: an undo, or a step after which there is no way back."""
    stuck_retry: Annotated[float, Field(ge=0)] = 300
    """Seconds after which a stuck undo is tried again by itself; each next pause is twice as long,
    up to twelve times this. 0: only by `ccfctl request retry`."""


class Reconcile(Section):
    """How what hosts hold is kept as the database says."""

    every: Annotated[float, Field(ge=0)] = 15
    """Seconds between two looks at the hosts; 0: only when `ccfctl reconcile` asks."""
    grace: Annotated[float, Field(ge=0)] = 60
    """Seconds that a thing of ours must be seen without an owner before it is removed."""


class Settings(Section):
    """All of it."""

    broker: Broker = Broker()
    database: Database = Database()
    http: Http = Http()
    ipam: Ipam = Ipam()
    network: tuple[Network, ...] = ()
    network_node: NetworkNode = NetworkNode()
    host: tuple[Host, ...] = ()
    tls: Tls = Tls()
    console: Console = Console()
    hypervisor: Hypervisor = Hypervisor()
    scheduler: Scheduler = Scheduler()
    images: Images = Images()
    keystone: Keystone = Keystone()
    flavor: tuple[Flavor, ...] = ()
    slices: Slices = Slices()
    workflow: Workflow = Workflow()
    reconcile: Reconcile = Reconcile()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, found in (
            ("host", [host.name for host in self.host]),
            ("flavor", [flavor.name for flavor in self.flavor]),
            ("http.token", [token.name for token in self.http.token]),
        ):
            if len(set(found)) != len(found):
                raise ValueError(f"two [[{what}]] have the same name")
        if self.keystone.url is not None and self.images.token is not None:
            raise ValueError("images.token or [keystone]: Glance takes one of them")
        ranges = [ipaddress.IPv4Interface(network.cidr).network for network in self.network]
        for index, one in enumerate(ranges):
            for other in ranges[index + 1 :]:
                if one.overlaps(other):
                    raise ValueError(f"networks {one} and {other} overlap")
        return self

    @property
    def shutdown_grace(self) -> float:
        """Seconds that a guest has to shut down.

        A step whose time is over while the guest still has its own would begin anew, again and
        again.
        """
        return min(self.hypervisor.shutdown_grace, self.workflow.step_timeout / 2)

    @property
    def vm_mtu(self) -> int:
        """MTU in bytes inside a slice: the underlay's less VXLAN's headers (RFC 7348).

        Outer Ethernet is not part of the underlay's MTU; inner Ethernet 14 + VXLAN 8 + UDP 8 +
        IP 20 (IPv6: 40) are.
        """
        version = ipaddress.ip_address(self.network_node.tunnel_ip).version
        return self.network_node.underlay_mtu - (50 if version == 4 else 70)


def load(path: Path, environment: dict[str, str] | None = None) -> Settings:
    """Read *path* and the environment; raise `Refused` (`invalid_message`) naming each bad key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise Refused("invalid_message", f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Refused("invalid_message", f"{path} is not TOML: {exc}") from exc
    # Files before the environment, which overrides what they say, and may name files itself.
    data = _with_files(data)
    _override(data, dict(os.environ) if environment is None else environment)
    try:
        return Settings.model_validate(_with_files(data))
    except ValidationError as exc:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'file'}: {error['msg']}"
            for error in exc.errors()
        )
        raise Refused("invalid_message", f"{path}: {wrong}") from exc


def _override(data: dict[str, Any], environment: dict[str, str]) -> None:
    """Put every `CCFD_SECTION__KEY` of the environment into *data*."""
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        place = data.setdefault(section, {})
        if not isinstance(place, dict):
            raise Refused("invalid_message", f"{variable}: lists are set in the file only")
        place[key] = text


def _with_files(data: dict[str, Any]) -> dict[str, Any]:
    """Replace each `key_file` whose section has the key `key` by the file's content."""
    for section, model in Settings.model_fields.items():
        place = data.get(section)
        kind = model.annotation
        if not isinstance(kind, type) or not issubclass(kind, Section):
            continue
        if not isinstance(place, dict):
            continue
        for key in [key for key in place if key.endswith("_file") and key not in kind.model_fields]:
            target = key.removesuffix("_file")
            if target not in kind.model_fields:
                continue
            source = Path(str(place.pop(key)))
            try:
                content = source.read_bytes()
            except OSError as exc:
                raise Refused(
                    "invalid_message", f"{section}.{key}: cannot read {source}: {exc.strerror}"
                ) from exc
            try:
                place[target] = content.decode("utf-8").strip()
            except UnicodeDecodeError:
                place[target] = content  # Only a secret may be what is no text.
    return data
