"""The schemas of the events: what each may say, type by type.

JSON types are strict, unknown fields are refused, and null is refused where it means nothing.
"""

import ipaddress
import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

SIZES = (64, 32, 16, 8)
YEAR = 31_536_000

Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
]
# Not checked for the form of a UUID: what is no VM's id is `vm_not_found`.
VmId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(max_length=4096)]
SshKey = Annotated[str, StringConstraints(pattern=r"^[!-~][ -~]{0,16382}[!-~]$")]
Cpu = Annotated[int, Field(ge=1, le=1024)]
Ram = Annotated[int, Field(ge=1, le=1 << 30, description="MiB")]
Disk = Annotated[int, Field(ge=1, le=1 << 20, description="GiB")]
FASTEST = 34_000
"""Mbit/s: Open vSwitch hands Linux's htb a rate in bytes a second, in 32 bits."""
Bandwidth = Annotated[int, Field(ge=1, le=FASTEST, description="Mbit/s, each way")]


def _size(ipcount: int) -> int:
    if ipcount not in SIZES:
        raise PydanticCustomError("invalid_ipcount", "must be 64, 32, 16 or 8")
    return ipcount


IpCount = Annotated[int, AfterValidator(_size)]


class Body(BaseModel):
    """The body of an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_means_nothing(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key, value in data.items():
                if value is None and key not in cls.nullable:
                    raise PydanticCustomError("null", "{key} is null", {"key": str(key)})
        return data

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        # Strict mode takes no list for a tuple, and a frozen value wants tuples.
        if isinstance(data, dict):
            return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return data


class SubnetCreate(Body):
    """Reserve a subnet for an owner."""

    owner: Name
    ipcount: IpCount = 64
    timeout: Annotated[int, Field(ge=1, le=YEAR)] | None = None
    island: Name | None = None


class SubnetOwner(Body):
    """Confirm or delete an owner's subnet."""

    owner: Name


class VmSpec(Body):
    """A VM as `slice.create` wants it."""

    name: Name | None = None
    flavor: Name | None = None
    cpu: Cpu | None = None
    ram: Ram | None = None
    disk: Disk | None = None
    bandwidth: Bandwidth | None = None
    image: Name
    host: Name | None = None
    dhcp: bool = True
    same_host: tuple[Name, ...] = ()
    different_host: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _has_one_size(self) -> Self:
        given = [size for size in (self.cpu, self.ram, self.disk) if size is not None]
        if (self.flavor is None) == (not given) or (given and len(given) != 3):
            raise PydanticCustomError("size", "give either flavor, or all of cpu, ram and disk")
        return self


class VmCreate(VmSpec):
    """Add a VM to a slice."""

    slice: Name


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")

PLAIN_PORT = 6633
"""Where an OpenFlow controller listens that says nothing else (OpenFlow 1.0's port)."""


def _reachable(address: str) -> str:
    """Return *address* in its usual form; raise where a switch must not send to it."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        raise PydanticCustomError("address", "not an IP address") from None
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    # A switch would reach its own host by these, or whatever happens to be beside it.
    if (
        known.is_loopback
        or known.is_unspecified
        or known.is_multicast
        or known.is_link_local
        or known == ipaddress.IPv4Address("255.255.255.255")
        or (known.version == 4 and known in _THIS_NETWORK)
    ):
        raise PydanticCustomError(
            "address", "a loopback, link-local, multicast or broadcast address"
        )
    return str(known)


def _collector(text: str) -> str:
    """Return `ADDRESS:PORT` in its usual form, an IPv6 address in brackets."""
    address, _, port = text.rpartition(":")
    bare = address.removeprefix("[").removesuffix("]")
    if (":" in bare) != (address != bare) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise PydanticCustomError("collector", "must be ADDRESS:PORT, IPv6 as [ADDRESS]:PORT")
    if not 1 <= int(port) <= 65535:
        raise PydanticCustomError("collector", "a port is from 1 to 65535")
    known = _reachable(bare)
    return f"[{known}]:{int(port)}" if ":" in known else f"{known}:{int(port)}"


Collector = Annotated[str, StringConstraints(max_length=64), AfterValidator(_collector)]


class Monitoring(Body):
    """Who is told what passes a slice's bridges: collectors of sFlow and IPFIX."""

    sflow: Collector | None = None
    ipfix: Collector | None = None

    @model_validator(mode="after")
    def _is_any(self) -> Self:
        if self.sflow is None and self.ipfix is None:
            raise PydanticCustomError("monitoring", "give sflow, ipfix or both")
        return self


class Controller(Body):
    """The OpenFlow controller of a slice: a VM from an image, or the tenant's own address."""

    image: Name | None = None
    address: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None

    @field_validator("address")
    @classmethod
    def _is_reachable(cls, address: str) -> str:
        return _reachable(address)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.image is None) == (self.address is None) or (
            self.port is not None and self.address is None
        ):
            raise PydanticCustomError("controller", "give image, or address (and port)")
        return self


class SliceCreate(Body):
    """Give a tenant a virtual network of its own."""

    slice: Name
    island: Name | None = None
    description: Text | None = None
    project: Text | None = None
    user: Text | None = None
    ipcount: IpCount = 64
    dhcp: bool = True
    gateway: bool = True
    controller: Controller | None = None
    monitoring: Monitoring | None = None
    vms: Annotated[tuple[VmSpec, ...], Field(max_length=61)] = ()
    ssh_keys: Annotated[tuple[SshKey, ...], Field(max_length=64)] = ()
    expires_in: Annotated[int, Field(ge=1, le=10 * YEAR)] | None = None

    @model_validator(mode="after")
    def _vms_differ(self) -> Self:
        given = [vm.name for vm in self.vms if vm.name is not None]
        if len(set(given)) != len(given):
            raise PydanticCustomError("vms", "two VMs have the same name")
        return self


class SliceUpdate(Body):
    """Change what a slice is told to be; null for `controller` or `monitoring` ends it."""

    nullable = frozenset({"controller", "monitoring"})

    slice: Name
    description: Text | None = None
    controller: Controller | None = None
    monitoring: Monitoring | None = None
    expires_in: Annotated[int, Field(ge=1, le=10 * YEAR)] | None = None


class SliceName(Body):
    """Name a slice."""

    slice: Name


class VmDelete(Body):
    """Delete a VM."""

    vm: VmId


class VmPower(Body):
    """Start, stop, reboot, suspend or resume a VM; `force` does not ask the guest."""

    vm: VmId
    force: bool = False


class ControllerCreate(Body):
    """Give a slice a controller from an image."""

    slice: Name
    image_name: Name
    island: Name | None = None


class VmResize(Body):
    """Give a VM another size."""

    vm: VmId
    flavor: Name


class VmSnapshot(Body):
    """Take a snapshot of a VM, go back to it, or delete it."""

    vm: VmId
    snapshot: Name


class FlavorCreate(Body):
    """Give a size of VMs a name."""

    flavor: Name
    cpu: Cpu
    ram: Ram
    disk: Disk
    bandwidth: Bandwidth | None = None


class FlavorName(Body):
    """Name a flavor."""

    flavor: Name


class HostName(Body):
    """Name a host."""

    host: Name


class ImageImport(Body):
    """Take the list of images from the store, or one image of it."""

    name: Name | None = None
