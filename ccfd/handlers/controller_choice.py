"""How a slice's OpenFlow controller is decided: where its switches may be pointed."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

from ccfd.errors import Refused
from ccfd.handlers import vm_choice
from ccfd.model import names
from ccfd.model.network import Controller
from ccfd.model.slice import PlannedVm
from ccfd.network import endpoints
from ccfd.requests import events
from ccfd.settings import Host, Network, NetworkNode, Settings
from ccfd.store.database import Transaction

LONGEST_IMAGE = 54
"""Letters of its image's name that a controller is called after: 63 with a dash and 8 digits."""

Row = dict[str, object]


def of_tenant(asked: events.Controller | None, settings: Settings) -> Controller | None:
    """Return the controller at the address that was *asked* for, or None where none was.

    Raises `Refused` (`invalid_state`) where the address is one of ours.
    """
    if asked is None or asked.address is None:
        return None
    owner = whose(asked.address, settings)
    if owner:
        raise Refused(
            "invalid_state",
            f"{asked.address} is {owner}: switches are pointed at a controller of the tenant's own",
        )
    return Controller(address=asked.address, port=asked.port or events.PLAIN_PORT)


async def make(
    slice_name: str, island: str, image: str, settings: Settings, transaction: Transaction
) -> PlannedVm:
    """Decide a controller's VM from *image* and claim what it needs.

    Raises `Refused` as `vm_choice.choose` does; `invalid_state` on an island without a control
    network.
    """
    spec = events.VmSpec(
        name=f"{image[:LONGEST_IMAGE]}-{uuid4().hex[:8]}",
        image=image,
        flavor=settings.slices.controller_flavor,
        dhcp=False,
    )
    (vm,) = await vm_choice.choose(
        slice_name,
        island,
        names.CONTROL_VNI,
        [spec],
        transaction,
        policy=settings.scheduler.placement,
        kind="controller",
    )
    return vm


def of_vm(vm: PlannedVm) -> Controller:
    """Return the controller that a VM is."""
    return Controller(address=vm.ip, port=events.PLAIN_PORT, vm=vm.id)


def to_row(controller: Controller | None) -> Row | None:
    """Write a controller as the slice's row and document show it."""
    if controller is None:
        return None
    vm = {} if controller.vm is None else {"vm": controller.vm}
    return {"address": controller.address, "port": controller.port, **vm}


def of_row(row: dict[str, object] | None) -> Controller | None:
    """Read what `to_row` wrote."""
    return None if row is None else Controller(**row)  # type: ignore[arg-type]  # JSON has no types


def whose(address: str, settings: Settings) -> str:
    """Say which of ccfd's own addresses this is, as far as the settings tell them; or nothing."""
    asked = ipaddress.ip_address(address)
    for owner, text in _places(settings):
        try:
            if ipaddress.ip_address(text) == asked:
                return owner
        except ValueError:  # a host's name: what it stands for may change at any time
            continue
    for network in settings.network:
        if asked.version == 4 and _gives_out(network, asked):
            return f"an address that ccfd gives out (network {network.cidr})"
    return ""


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    node = settings.network_node
    for text in (node.tunnel_ip, *_of_switch(node), settings.http.listen.rpartition(":")[0]):
        yield "the network node's", text.strip("[]")
    for host in settings.host:
        for text in (host.tunnel_ip, *_of_switch(host), urlsplit(host.libvirt).hostname or ""):
            yield f"host {host.name}'s", text


def _of_switch(place: Host | NetworkNode) -> Iterator[str]:
    for text in (place.ovsdb, place.openflow or place.ovsdb):
        found = endpoints.parse(text)
        yield found.host if isinstance(found, endpoints.Tcp) else ""


def _gives_out(network: Network, asked: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether ccfd may give *asked* out; the outside router is somebody else's."""
    interface = ipaddress.IPv4Interface(network.cidr)
    if asked not in interface.network or str(asked) == network.gateway:
        return False
    # What lies below the first address of an outside network is not for ccfd to give.
    return network.type != 2 or int(asked) >= int(interface.ip)
