"""Decides which OVSDB operations turn a switch's bridge into what the slice wants.

Each function looks at what is wanted and at a `Snapshot` of the rows and lists the operations of
one transaction; none means: it is so already. The first is a `wait` for the bridge to be as it was
seen, so that a change by somebody else makes the transaction fail instead of meeting it.

Ports that are Linux links ("system") need care with the userspace datapath, measured with Open
vSwitch 3.1: a row may stand before its link, the switch takes the link up when it appears; but
when the link is deleted and made again, the switch keeps listening to the dead one, though its row
looks well. Deleting and inserting the row in one transaction changes nothing (rows are matched by
name), whereas another `ofport_request` makes it open the link again. So the row remembers the link
that the switch opened (`ccf-ifindex`); when that is not the link of today, the port is *parked* on
another number and, in the next transaction, brought back to its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network.ovsdb import Operation
from ccfd.network.rows import BridgeRow, InterfaceRow, PortRow, to_map, to_uuids

SLICE = "ccf-slice"
VNI = "ccf-vni"
ABOUT = "ccf-about"
VM = "ccf-vm"
HOST = "ccf-host"
IFINDEX = "ccf-ifindex"

PARKED = 0x8000
"""The bit that tells a parked port's number; OpenFlow 1.0 numbers end at 0xfeff."""
LAST_NUMBER = 0x7EFF

MAC_TABLE_SIZE = 4096
"""Addresses that a bridge learns at most: a tenant that invents some fills its own table only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A host's Open vSwitch, as the settings tell it.

    `name` is the host's, or of several that share the switch (a compute host that is the network
    node too) the first; `sharers` are all of them.
    """

    name: str
    datapath_type: str
    tunnel_ip: str
    sharers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the database holds of one bridge, and of the names that it shall get.

    `taken` are those wanted names that stand outside of this bridge. `fresh` are ports that the
    caller itself inserted or parked since it began: the switch has just opened their links.
    """

    bridge: BridgeRow | None = None
    ports: tuple[PortRow, ...] = ()
    interfaces: tuple[InterfaceRow, ...] = ()
    taken: frozenset[str] = frozenset()
    next_cfg: int = 0
    fresh: frozenset[str] = frozenset()


@dataclass(slots=True)
class Change:
    """The operations of one transaction, and the ports whose links it makes the switch open."""

    ops: list[Operation] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)


def make(wanted: Bridge, switch: Switch, seen: Snapshot) -> Change:
    """Turn what is seen into exactly *wanted* (of this host; a sharer's ports stay).

    Raises `Refused` (`switch_error`) when the bridge or a port's name belongs to somebody else.
    """
    change = Change()
    if seen.bridge is None:
        _insert_bridge(wanted, switch, seen, change)
        return change
    _check_owner(wanted, seen.bridge)
    kept = {names.bridge(wanted.vni), *(port.name for port in wanted.ports)}
    leaving = [port for port in _ports_of(wanted.host, switch, seen) if port.name not in kept]
    _correct_bridge(wanted, switch, seen.bridge, change)
    _join(wanted, switch, seen, change, local=True)
    if leaving:
        change.ops.append(_mutate_ports(seen.bridge, "delete", to_uuids(p.uuid for p in leaving)))
    return _guarded(seen.bridge, change)


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
    _join(wanted, switch, seen, change, local=False)
    return _guarded(seen.bridge, change)


def unplug(unwanted: Ports, seen: Snapshot) -> Change:
    """Remove these ports; a bridge that is not this slice's is left alone."""
    change = Change()
    if seen.bridge is None or owner(seen.bridge) != unwanted.slice:
        return change
    leaving = {port.name for port in unwanted.ports}
    ids = [port.uuid for port in seen.ports if port.name in leaving]
    if ids:
        change.ops.append(_mutate_ports(seen.bridge, "delete", to_uuids(ids)))
    return _guarded(seen.bridge, change)


def remove(unwanted: Bridge, switch: Switch, seen: Snapshot) -> Change:
    """Remove the bridge with all its ports, if it is this slice's.

    Where a sharer of the switch still has ports on it, only this host's go.
    """
    change = Change()
    if seen.bridge is None or owner(seen.bridge) != unwanted.slice:
        return change
    local = names.bridge(unwanted.vni)
    leaving = {port.uuid for port in _ports_of(unwanted.host, switch, seen)}
    staying = {port.uuid for port in seen.ports if port.name != local} - leaving
    if staying:
        leaving -= {port.uuid for port in seen.ports if port.name == local}
        if leaving:
            change.ops.append(_mutate_ports(seen.bridge, "delete", to_uuids(leaving)))
    else:
        # Ports and interfaces that nothing refers to any more go by themselves.
        change.ops.append(
            _mutate("Open_vSwitch", [], ["bridges", "delete", to_uuids([seen.bridge.uuid])])
        )
    return _guarded(seen.bridge, change)


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


def _check_owner(wanted: Bridge | Ports, bridge: BridgeRow) -> None:
    if owner(bridge) == wanted.slice:
        return
    whose = f"of slice {owner(bridge)}" if owner(bridge) else "not made by ccfd"
    raise Refused(
        "switch_error",
        f"bridge {bridge.name} on {wanted.host} is {whose}; slice {wanted.slice} cannot have it: "
        "remove it, or keep the range of VNIs in [slices] clear of it",
    )


def _ports_of(host: str, switch: Switch, seen: Snapshot) -> list[PortRow]:
    """List the ports that are *host*'s to remove: all but those of the switch's other sharers."""
    interfaces = {row.uuid: row for row in seen.interfaces}
    others = switch.sharers - {host}
    return [
        port
        for port in seen.ports
        if not any(
            interfaces[uuid].external_ids.get(HOST) in others
            for uuid in port.interfaces
            if uuid in interfaces
        )
    ]


def _bridge_columns(wanted: Bridge, switch: Switch, present: BridgeRow | None) -> dict[str, Any]:
    """Return the Bridge row's columns as they shall be; keys that are not ours stay."""
    ids = dict(present.external_ids) if present else {}
    config = dict(present.other_config) if present else {}
    about = {ABOUT: wanted.about} if wanted.about else {}
    return {
        "datapath_type": switch.datapath_type,
        # A bridge with a controller must not start to forward by itself when it is gone.
        "fail_mode": "secure" if present and present.controlled else "standalone",
        "external_ids": {**ids, SLICE: wanted.slice, VNI: str(wanted.vni), **about},
        "other_config": {
            **config,
            "datapath-id": datapath_id(wanted.vni, switch.name),
            "hwaddr": hardware_address(wanted.vni, switch.name),
            "mac-table-size": str(MAC_TABLE_SIZE),
        },
    }


def _written(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: to_map(value) if isinstance(value, dict) else value for name, value in columns.items()
    }


def _insert_bridge(wanted: Bridge, switch: Switch, seen: Snapshot, change: Change) -> None:
    name = names.bridge(wanted.vni)
    change.ops.append(
        {
            "op": "wait",
            "table": "Bridge",
            "where": [["name", "==", name]],
            "columns": ["name"],
            "until": "==",
            "rows": [],
            "timeout": 0,
        }
    )
    ports = _insert_ports(wanted, switch, seen, (_local(wanted.vni), *wanted.ports), change)
    columns = _written(_bridge_columns(wanted, switch, None))
    change.ops += [
        {
            "op": "insert",
            "table": "Bridge",
            "uuid-name": "bridge",
            "row": {"name": name, **columns, "ports": ["set", ports]},
        },
        _mutate("Open_vSwitch", [], ["bridges", "insert", ["set", [["named-uuid", "bridge"]]]]),
    ]


def _correct_bridge(wanted: Bridge, switch: Switch, present: BridgeRow, change: Change) -> None:
    columns = _bridge_columns(wanted, switch, present)
    wrong = {name: value for name, value in columns.items() if getattr(present, name) != value}
    if wrong:
        change.ops.append(_update("Bridge", present.uuid, wrong))


def _join(
    wanted: Bridge | Ports, switch: Switch, seen: Snapshot, change: Change, *, local: bool
) -> None:
    """Insert the ports that are missing, correct those that differ."""
    assert seen.bridge is not None
    interfaces = {row.name: row for row in seen.interfaces}
    present = {row.name for row in seen.ports}
    ports = ((_local(wanted.vni),) if local else ()) + wanted.ports
    missing = tuple(
        port for port in ports if port.name not in interfaces or port.name not in present
    )
    for port in ports:
        if port not in missing:
            _correct_port(wanted, switch, seen, port, interfaces[port.name], change=change)
    if missing:
        added = _insert_ports(wanted, switch, seen, missing, change)
        change.ops.append(_mutate_ports(seen.bridge, "insert", ["set", added]))


@dataclass(frozen=True, slots=True)
class _Local:
    """The bridge's own port, which Open vSwitch wants each bridge to have."""

    name: str


def _local(vni: int) -> _Local:
    return _Local(names.bridge(vni))


def _insert_ports(
    wanted: Bridge | Ports,
    switch: Switch,
    seen: Snapshot,
    ports: tuple[Port | _Local, ...],
    change: Change,
) -> list[list[str]]:
    taken = sorted(port.name for port in ports if port.name in seen.taken)
    if taken:
        raise Refused(
            "switch_error",
            f"the names {', '.join(taken)} are in use on {wanted.host} outside of bridge "
            f"{names.bridge(wanted.vni)}: remove those ports",
        )
    numbers = _Numbers(seen)
    references = []
    for index, port in enumerate(ports):
        columns = _written(_interface_columns(wanted, switch, port, None))
        if isinstance(port, Port):
            columns["ofport_request"] = numbers.next()
            change.opened.add(port.name)
        change.ops += [
            {
                "op": "insert",
                "table": "Interface",
                "uuid-name": f"interface{index}",
                "row": {"name": port.name, **columns},
            },
            {
                "op": "insert",
                "table": "Port",
                "uuid-name": f"port{index}",
                "row": {"name": port.name, "interfaces": ["named-uuid", f"interface{index}"]},
            },
        ]
        references.append(["named-uuid", f"port{index}"])
    return references


class _Numbers:
    """Gives port numbers that are free on a bridge, lowest first."""

    def __init__(self, seen: Snapshot) -> None:
        self._used = {
            number & ~PARKED
            for row in seen.interfaces
            for number in (row.ofport_request, row.ofport)
            if number is not None and number > 0
        }

    def next(self) -> int:
        number = next((n for n in range(1, LAST_NUMBER + 1) if n not in self._used), None)
        if number is None:
            raise Refused("switch_error", f"the bridge has {LAST_NUMBER} ports: no more fit")
        self._used.add(number)
        return number


def _interface_columns(
    wanted: Bridge | Ports, switch: Switch, port: Port | _Local, present: InterfaceRow | None
) -> dict[str, Any]:
    if isinstance(port, _Local):
        return {"type": "internal"}
    ids = dict(present.external_ids) if present else {}
    for key in (VM, "iface-id", "attached-mac"):
        ids.pop(key, None)
    ids |= {SLICE: wanted.slice, HOST: wanted.host}
    if port.vm is not None:
        ids |= {VM: port.vm, "iface-id": port.vm}
    if port.mac is not None:
        ids["attached-mac"] = port.mac
    options: dict[str, str] = {}
    if port.kind == "vxlan":
        if port.remote_ip is None:
            raise Refused("switch_error", f"tunnel port {port.name} has no remote address")
        options = {
            "remote_ip": port.remote_ip,
            "local_ip": switch.tunnel_ip,
            "key": str(wanted.vni),
        }
    return {"type": port.kind, "options": options, "external_ids": ids}


def _correct_port(
    wanted: Bridge | Ports,
    switch: Switch,
    seen: Snapshot,
    port: Port | _Local,
    present: InterfaceRow,
    *,
    change: Change,
) -> None:
    columns = _interface_columns(wanted, switch, port, present)
    if isinstance(port, Port):
        number = _own_number(present, seen)
        if port.kind == "system":
            columns["external_ids"], reopen = _follow_link(
                columns["external_ids"], present, fresh=port.name in seen.fresh
            )
            if reopen:
                number |= PARKED
                change.opened.add(port.name)
        columns["ofport_request"] = number
    wrong = {name: value for name, value in columns.items() if getattr(present, name) != value}
    if wrong:
        change.ops.append(_update("Interface", present.uuid, wrong))


def _own_number(present: InterfaceRow, seen: Snapshot) -> int:
    if present.ofport_request is not None:
        return present.ofport_request & ~PARKED
    if present.ofport is not None and 0 < present.ofport <= LAST_NUMBER:
        return present.ofport
    return _Numbers(seen).next()


def _follow_link(
    ids: dict[str, str], present: InterfaceRow, *, fresh: bool
) -> tuple[dict[str, str], bool]:
    """Note which link the switch has open; tell whether it must open it again."""
    if present.ofport is None or present.ofport < 1:  # it waits for the link
        return {key: text for key, text in ids.items() if key != IFINDEX}, False
    if not present.ifindex:  # the link is gone, or was opened just now
        return {key: text for key, text in ids.items() if key != IFINDEX}, not fresh
    now = str(present.ifindex)
    return {**ids, IFINDEX: now}, not fresh and ids.get(IFINDEX) != now


def _guarded(bridge: BridgeRow, change: Change) -> Change:
    """Put a `wait` for the bridge's owner and ports in front of operations, if there are any."""
    if change.ops:
        change.ops.insert(
            0,
            {
                "op": "wait",
                "table": "Bridge",
                "where": [["_uuid", "==", ["uuid", bridge.uuid]]],
                "columns": ["external_ids", "other_config", "ports"],
                "until": "==",
                "rows": [
                    {
                        "external_ids": to_map(bridge.external_ids),
                        "other_config": to_map(bridge.other_config),
                        "ports": to_uuids(bridge.ports),
                    }
                ],
                "timeout": 0,
            },
        )
    return change


def _update(table: str, uuid: str, columns: Mapping[str, Any]) -> Operation:
    return {
        "op": "update",
        "table": table,
        "where": [["_uuid", "==", ["uuid", uuid]]],
        "row": _written(columns),
    }


def _mutate_ports(bridge: BridgeRow, how: str, ports: list[Any]) -> Operation:
    where = [["_uuid", "==", ["uuid", bridge.uuid]]]
    return _mutate("Bridge", where, ["ports", how, ports])


def _mutate(table: str, where: list[Any], mutation: list[Any]) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": [mutation]}


def with_fresh(seen: Snapshot, fresh: set[str]) -> Snapshot:
    """Return *seen* with the ports that were opened meanwhile."""
    return replace(seen, fresh=frozenset(fresh))
