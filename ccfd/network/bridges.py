"""Decides which OVSDB operations turn a switch's bridge into what the slice wants.

Each function looks at what is wanted and at a `Snapshot` of the rows and lists the operations of
one transaction; none means: it is so already. The first is a `wait` for the bridge to be as it was
seen, so that a change by somebody else makes the transaction fail instead of meeting it.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import controllers, exports
from ccfd.network.changes import (
    ABOUT,
    CONTROL,
    SLICE,
    VNI,
    Change,
    Snapshot,
    Switch,
    guarded,
    insert_bridge,
    mutate,
    mutate_ports,
    update,
    written,
)
from ccfd.network.ports import Local, Patch, insert_ports, join_ports, ports_of
from ccfd.network.rows import BridgeRow, to_uuids

MAC_TABLE_SIZE = 4096
"""Addresses that a bridge learns at most: a tenant that invents some fills its own table only."""


def make(wanted: Bridge, switch: Switch, seen: Snapshot) -> Change:
    """Turn what is seen into exactly *wanted* (of this host; a sharer's ports stay).

    Raises `Refused` (`switch_error`) when the bridge or a port's name belongs to somebody else.
    """
    change = Change()
    if seen.bridge is None:
        _insert_bridge(wanted, switch, seen, change)
        return change
    _check_owner(wanted, seen.bridge)
    local = names.bridge(wanted.vni)
    ports = on_bridge(wanted.ports)
    kept = {local, *(port.name for port in ports)}
    leaving = [port for port in ports_of(wanted.host, switch, seen) if port.name not in kept]
    _correct_bridge(wanted, switch, seen, seen.bridge, change)
    join_ports(wanted, switch, seen, (Local(local), *ports), change)
    if leaving:
        change.ops.append(mutate_ports(seen.bridge, "delete", to_uuids(p.uuid for p in leaving)))
    return guarded(seen, change)


def plug(wanted: Ports, switch: Switch, seen: Snapshot) -> Change:
    """Add *wanted* to their bridge, which must stand. Raises `Refused` (`switch_error`)."""
    if seen.bridge is None:
        raise Refused(
            "switch_error",
            f"bridge {names.bridge(wanted.vni)} of slice {wanted.slice} is not on {wanted.host}: "
            "make it first",
        )
    _check_owner(wanted, seen.bridge)
    change = Change()
    join_ports(wanted, switch, seen, on_bridge(wanted.ports), change)
    return guarded(seen, change)


def unplug(unwanted: Ports, seen: Snapshot) -> Change:
    """Remove these ports; a bridge that is not this slice's is left alone."""
    change = Change()
    if seen.bridge is None or not _is_whose(unwanted, seen.bridge):
        return change
    leaving = {port.name for port in on_bridge(unwanted.ports)}
    ids = [port.uuid for port in seen.ports if port.name in leaving]
    if ids:
        change.ops.append(mutate_ports(seen.bridge, "delete", to_uuids(ids)))
    return guarded(seen, change)


def remove(unwanted: Bridge, switch: Switch, seen: Snapshot) -> Change:
    """Remove the bridge with all its ports, if it is this slice's.

    Where a sharer of the switch still has ports on it, only this host's go.
    """
    change = Change()
    if seen.bridge is None or owner(seen.bridge) != unwanted.slice:
        return change
    local = names.bridge(unwanted.vni)
    leaving = {port.uuid for port in ports_of(unwanted.host, switch, seen)}
    staying = {port.uuid for port in seen.ports if port.name != local} - leaving
    if staying:
        leaving -= {port.uuid for port in seen.ports if port.name == local}
        if leaving:
            change.ops.append(mutate_ports(seen.bridge, "delete", to_uuids(leaving)))
    else:
        # Ports and interfaces that nothing refers to any more go by themselves.
        change.ops.append(
            mutate("Open_vSwitch", [], ["bridges", "delete", to_uuids([seen.bridge.uuid])])
        )
    return guarded(seen, change)


def on_bridge(ports: Iterable[Port]) -> tuple[Port | Patch, ...]:
    """Say what stands for *ports* on the slice's bridge: for a VM's, the patch to the guard."""
    return tuple(
        port
        if port.vm is None
        else Patch(name=names.patch(port.vm), peer=names.guard_patch(port.vm))
        for port in ports
    )


def owner(bridge: BridgeRow) -> str | None:
    """Return the slice that the bridge is tagged with."""
    return bridge.external_ids.get(SLICE)


def datapath_id(vni: int, host: str) -> str:
    """Return the bridge's OpenFlow datapath id: 6 hex digits of VNI, 10 of the host's digest."""
    return f"{vni:06x}{hashlib.sha256(host.encode()).hexdigest()[:10]}"


def hardware_address(vni: int, host: str) -> str:
    """Return the bridge's own MAC: locally administered unicast, unlike VMs' (`02:`)."""
    digest = hashlib.sha256(f"{vni}/{host}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x06, *digest[:5]))


def _is_whose(ports: Bridge | Ports, bridge: BridgeRow) -> bool:
    """Tell whether these ports may be on the bridge: their slice's, or that of controllers."""
    if ports.vni == names.CONTROL_VNI:
        return CONTROL in bridge.external_ids
    return owner(bridge) == ports.slice


def _check_owner(wanted: Bridge | Ports, bridge: BridgeRow) -> None:
    if _is_whose(wanted, bridge):
        return
    whose = f"of slice {owner(bridge)}" if owner(bridge) else "not made by ccfd"
    raise Refused(
        "switch_error",
        f"bridge {bridge.name} on {wanted.host} is {whose}; slice {wanted.slice} cannot have it: "
        "remove it, or keep the range of VNIs in [slices] clear of it",
    )


def _bridge_columns(wanted: Bridge, switch: Switch, present: BridgeRow | None) -> dict[str, Any]:
    """Return the Bridge row's columns as they shall be; keys that are not ours stay."""
    ids = dict(present.external_ids) if present else {}
    config = dict(present.other_config) if present else {}
    about = {ABOUT: wanted.about} if wanted.about else {}
    return {
        "datapath_type": switch.datapath_type,
        **controllers.bridge_columns(wanted.controller),
        "external_ids": {**ids, SLICE: wanted.slice, VNI: str(wanted.vni), **about},
        "other_config": {
            **config,
            "datapath-id": datapath_id(wanted.vni, switch.name),
            "hwaddr": hardware_address(wanted.vni, switch.name),
            "mac-table-size": str(MAC_TABLE_SIZE),
        },
    }


def _exports(wanted: Bridge, switch: Switch) -> exports.Wanted:
    return exports.rows(wanted.export, wanted.vni, switch.tunnel_ip)


def _insert_bridge(wanted: Bridge, switch: Switch, seen: Snapshot, change: Change) -> None:
    own = Local(names.bridge(wanted.vni))
    rows = insert_ports(wanted, switch, seen, (own, *on_bridge(wanted.ports)), change)
    columns = written(_bridge_columns(wanted, switch, None))
    name = names.bridge(wanted.vni)
    columns |= controllers.attach(name, controllers.dialled(wanted.controller), (), change)
    columns |= exports.attach(_exports(wanted, switch), (), change)
    insert_bridge(name, columns, rows, change)


def _correct_bridge(
    wanted: Bridge, switch: Switch, seen: Snapshot, present: BridgeRow, change: Change
) -> None:
    columns = _bridge_columns(wanted, switch, present)
    wrong = {name: value for name, value in columns.items() if getattr(present, name) != value}
    dialled = controllers.dialled(wanted.controller)
    wrong |= controllers.attach(present.name, dialled, seen.controllers, change)
    wrong |= exports.attach(_exports(wanted, switch), seen.exports, change)
    if wrong:
        change.ops.append(update("Bridge", present.uuid, wrong))
