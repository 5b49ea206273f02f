"""A slice as values: what was decided for it and for each of its VMs.

They are stored as JSON within plans, and on hosts (`handlers.tags`): fields may be added with a
default, never renamed.
"""

from dataclasses import dataclass
from datetime import datetime

from ccfd.model.network import Controller, Monitoring
from ccfd.model.vm import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVm:
    """A VM with everything decided: where it runs, what it takes, what it is called.

    `ram` in MiB, `disk` in GiB; `bandwidth` in Mbit/s each way, or None for no limit. `dhcp` tells
    whether the DHCP server answers it.
    """

    id: str
    name: str
    host: str
    ip: str
    mac: str
    cpu: int
    ram: int
    disk: int
    flavor: str | None
    image: Image
    dhcp: bool = True
    kind: str = "slice"
    created_at: datetime | None = None
    bandwidth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSlice:
    """A slice's network and its VMs. `address` is its own in the subnet, `10.0.0.1/26`.

    `gateway` is its address outside, `203.0.113.10`, or None for a slice without a way out.
    `ssh_keys` are the tenant's public keys, `ssh_key` is that of the slice's own pair. From
    `description` on: what is only told of it.
    """

    name: str
    vni: int
    address: str
    dhcp: bool
    ssh_keys: tuple[str, ...] = ()
    ssh_key: str | None = None
    vms: tuple[PlannedVm, ...] = ()
    controller: Controller | None = None
    gateway: str | None = None
    monitoring: Monitoring | None = None
    description: str | None = None
    project: str | None = None
    user: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
