"""A virtual machine as values: what a host's libvirt shall hold.

They are the arguments of workflow steps, stored as JSON with the plan: fields may be added with
a default, never renamed.
"""

from dataclasses import dataclass

from ccfd.model.network import Ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A base image: a qcow2 file of `size` bytes, known on hosts by its `checksum`.

    The checksum is the file's SHA-2 digest that the store gives, in hex (docs/adr/0014).
    `virtual_size` is the size of the disk that the image describes, in bytes. `id` is the store's
    own name for it.
    """

    name: str
    checksum: str
    size: int
    virtual_size: int
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredImage:
    """Something in the image store that cannot be used, and why; `name` is the store's."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the image store has: `images` by name, each name once."""

    images: tuple[Image, ...]
    ignored: tuple[IgnoredImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageListing:
    """What is asked of the image store: all images, or the one called *name*."""

    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOnHost:
    """A base image that shall be in a host's pool."""

    host: str
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The address (with its prefix) and MTU in bytes that a VM gives its link with this MAC."""

    mac: str
    address: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A VM's overlay on its base image (`size` in GiB) and its cloud-init seed.

    Without `link` the VM asks a DHCP server.
    """

    host: str
    vm: str
    image: Image
    size: int
    hostname: str
    ssh_keys: tuple[str, ...] = ()
    link: Link | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A VM's libvirt domain: `ram` in MiB, `cpu` in vCPUs, `mtu` in bytes.

    `about` is what the domain tells of its VM (`handlers.tags`).
    """

    host: str
    vm: str
    name: str
    slice: str
    kind: str
    cpu: int
    ram: int
    mac: str
    tap: str
    mtu: int
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A VM's start: its domain makes a new tap, which `port` of the switch must take up."""

    machine: Machine
    port: Ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Redefinition:
    """A change of what a VM that is off will be when it is started, with the way back."""

    before: Machine
    after: Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A VM's snapshot; by `mark` the one that takes it knows it for its own."""

    machine: Machine
    name: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revert:
    """A VM's way back to the snapshot `name`; one with memory runs again, with a new tap."""

    start: Start
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A VM's stop: `force` cuts the power, else the guest is asked first and given its time."""

    machine: Machine
    force: bool = False
