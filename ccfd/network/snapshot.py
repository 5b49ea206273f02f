"""Reads what a switch's database holds at the moment of one bridge, or of some ports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import guard, samples
from ccfd.network.changes import GUARD, HOST, SLICE, VM, VNI, Snapshot, select
from ccfd.network.guard import SeenGuard
from ccfd.network.ovsdb import DATABASE, Operation, Ovsdb, Result
from ccfd.network.ports import PARKED, is_tap
from ccfd.network.rows import (
    BRIDGE_COLUMNS,
    COLLECTOR_COLUMNS,
    CONTROLLER_COLUMNS,
    EXPORT_COLUMNS,
    INTERFACE_COLUMNS,
    PORT_COLUMNS,
    QOS_COLUMNS,
    BridgeRow,
    InterfaceRow,
    PortRow,
    bridge_row,
    collector_row,
    controller_row,
    export_row,
    interface_row,
    port_row,
    qos_row,
    to_map,
    to_uuids,
)

_NO_PORTS = [column for column in BRIDGE_COLUMNS if column != "ports"]
OF_PORTS = (("QoS", QOS_COLUMNS), (samples.TABLE, COLLECTOR_COLUMNS))
"""Tables with rows that are tagged with the port that they are of."""


async def read_bridge(db: Ovsdb, name: str, wanted: Iterable[str]) -> Snapshot:
    """Read the bridge *name* and what stands under the names *wanted*.

    One round trip tells all of a bridge that has no other ports.
    """
    config, bridges, *found = await db.transact(
        [
            select(DATABASE, [], ["next_cfg"]),
            select("Bridge", [["name", "==", name]], BRIDGE_COLUMNS),
            *_by_name(sorted({name, *wanted})),
        ]
    )
    next_cfg = int(config["rows"][0]["next_cfg"])
    interfaces = [interface_row(row) for result in found[::2] for row in result["rows"]]
    ports = [port_row(row) for result in found[1::2] for row in result["rows"]]
    if not bridges["rows"]:
        taken = {row.name for row in interfaces} | {row.name for row in ports}
        return Snapshot(taken=frozenset(taken), next_cfg=next_cfg)
    bridge = bridge_row(bridges["rows"][0])
    others = bridge.ports - {port.uuid for port in ports}
    ports += map(port_row, await _by_id(db, "Port", others, PORT_COLUMNS))
    own = tuple(port for port in ports if port.uuid in bridge.ports)
    ids = {uuid for port in own for uuid in port.interfaces}
    unread = ids - {row.uuid for row in interfaces}
    interfaces += map(interface_row, await _by_id(db, "Interface", unread, INTERFACE_COLUMNS))
    controllers = await _by_id(db, "Controller", bridge.controllers, CONTROLLER_COLUMNS)
    exported = [
        export_row(table, row)
        for table, uuids in bridge.exports.items()
        for row in await _by_id(db, table, uuids, EXPORT_COLUMNS[table])
    ]
    taken = {port.name for port in ports if port.uuid not in bridge.ports}
    taken |= {row.name for row in interfaces if row.uuid not in ids}
    return Snapshot(
        bridge=bridge,
        ports=own,
        interfaces=tuple(row for row in interfaces if row.uuid in ids),
        controllers=tuple(controller_row(row) for row in controllers),
        exports=tuple(exported),
        taken=frozenset(taken),
        next_cfg=next_cfg,
    )


async def read_named(db: Ovsdb, target: Bridge | Ports) -> Snapshot:
    """Read the slice's bridge and those of its ports that stand for the VMs of *target*.

    What else is on the bridge costs nothing; where one of them is missing, the numbers of the
    slice's ports are read as well.
    """
    name = names.bridge(target.vni)
    wanted = [names.patch(port.vm) for port in target.ports if port.vm is not None]
    config, bridges, *found = await db.transact(
        [
            select(DATABASE, [], ["next_cfg"]),
            select("Bridge", [["name", "==", name]], _NO_PORTS),
            *_by_name(wanted),
        ]
    )
    next_cfg = int(config["rows"][0]["next_cfg"])
    bridge = _bare(bridges["rows"][0]) if bridges["rows"] else None
    ports, interfaces, taken = await _sorted_out(db, bridge, found)
    used = []
    if len(ports) < len(wanted):
        columns = ["ofport_request", "ofport"]
        (numbers,) = await db.transact([select("Interface", [_is_of(target.slice)], columns)])
        used = [number for row in numbers["rows"] for number in row.values()]
    return Snapshot(
        bridge=bridge,
        ports=ports,
        interfaces=interfaces,
        taken=taken,
        next_cfg=next_cfg,
        whole=False,
        numbers=frozenset(n & ~PARKED for n in used if isinstance(n, int) and n > 0),
    )


async def read_guard(
    db: Ovsdb, target: Bridge | Ports, *, whole: bool, others: bool = False
) -> SeenGuard:
    """Read the guard with what the VMs of *target* have there; *whole*: and others of its network.

    Of all *others* the names and numbers of their taps are read, as they are where a VM has none
    yet, or the last one goes. It takes a database a while to find those.
    """
    vms = [port.vm for port in target.ports if port.vm is not None]
    mine = _tagged({SLICE: target.slice, VNI: str(target.vni), HOST: target.host})
    named = _by_name([name for port in target.ports for name in _on_guard(port)])
    limits = [
        select(table, [_tagged({VM: vm})], columns) for vm in vms for table, columns in OF_PORTS
    ]
    of_network = [
        *(select(table, [mine], columns) for table, columns in OF_PORTS),
        select("Interface", [guard.IS_TAP, mine], INTERFACE_COLUMNS),
    ]
    bridges, *rest = await db.transact(
        [
            select("Bridge", [["name", "==", names.GUARD]], _NO_PORTS),
            *named,
            *limits,
            *(of_network if whole else ()),
        ]
    )
    found, limited = rest[: len(named)], rest[len(named) :]
    if whole:
        more = [
            name
            for row in map(interface_row, limited.pop()["rows"])
            if row.external_ids.get(VM) not in vms
            for name in (row.name, names.guard_patch(row.external_ids.get(VM, "")))
        ]
        found += await db.transact(_by_name(more)) if more else []
    bridge = _bare(bridges["rows"][0]) if bridges["rows"] else None
    ports, interfaces, taken = await _sorted_out(db, bridge, found)
    controllers = await _by_id(
        db, "Controller", bridge.controllers if bridge else (), CONTROLLER_COLUMNS
    )
    # One may be found by its VM and by its network.
    collectors = {row.uuid: row for one in limited[1::2] for row in map(collector_row, one["rows"])}
    told = {row.ipfix for row in collectors.values() if row.ipfix is not None}
    exported = await _by_id(db, "IPFIX", told, EXPORT_COLUMNS["IPFIX"])
    taps = {row.name: row.ofport_request for row in interfaces if is_tap(row)}
    missing = {port.name for port in target.ports if port.vm is not None} - taps.keys()
    if others or missing or (taps and not vms):
        columns = ["name", "ofport_request"]
        (found_taps,) = await db.transact([select("Interface", [guard.IS_TAP], columns)])
        taps = {row["name"]: row["ofport_request"] for row in found_taps["rows"]}
    return SeenGuard(
        rows=Snapshot(
            bridge=bridge,
            ports=ports,
            interfaces=interfaces,
            controllers=tuple(controller_row(row) for row in controllers),
            taken=taken,
            exports=tuple(export_row("IPFIX", row) for row in exported),
            qos=tuple(
                {
                    row.uuid: row for one in limited[::2] for row in map(qos_row, one["rows"])
                }.values()
            ),
            collectors=tuple(collectors.values()),
            whole=False,
        ),
        taps={name: n & ~PARKED for name, n in taps.items() if isinstance(n, int)},
    )


async def has_guard(db: Ovsdb) -> bool:
    """Tell whether the switch has a guard."""
    return await read_taps_of(db, ()) is not None


async def has_bridge(db: Ovsdb, name: str) -> bool:
    """Tell whether the switch has a bridge called *name*."""
    (bridges,) = await db.transact([select("Bridge", [["name", "==", name]], ["name"])])
    return bool(bridges["rows"])


async def read_interfaces(db: Ovsdb, wanted: Iterable[str]) -> list[InterfaceRow]:
    """Read the rows of table Interface that are called so, on whichever bridge."""
    ops = [select("Interface", [["name", "==", name]], INTERFACE_COLUMNS) for name in wanted]
    found = await db.transact(ops) if ops else []
    return [interface_row(row) for one in found for row in one["rows"]]


async def read_taps_of(db: Ovsdb, vms: Iterable[str]) -> list[InterfaceRow] | None:
    """Read the taps of *vms*; None where the switch has no guard."""
    ours = [["name", "==", names.GUARD], _tagged({GUARD: "yes"})]
    bridges, *found = await db.transact(
        [
            select("Bridge", ours, ["name"]),
            *(
                select("Interface", [guard.IS_TAP, _tagged({VM: vm})], INTERFACE_COLUMNS)
                for vm in vms
            ),
        ]
    )
    return [interface_row(row) for one in found for row in one["rows"]] if bridges["rows"] else None


async def read_taps(db: Ovsdb) -> list[InterfaceRow]:
    """Read the taps of all VMs on the guard."""
    (taps,) = await db.transact([select("Interface", [guard.IS_TAP], INTERFACE_COLUMNS)])
    return [interface_row(row) for row in taps["rows"]]


def _on_guard(port: Port) -> tuple[str, ...]:
    return () if port.vm is None else (port.name, names.guard_patch(port.vm))


async def _sorted_out(
    db: Ovsdb, bridge: BridgeRow | None, found: Sequence[Result]
) -> tuple[tuple[PortRow, ...], tuple[InterfaceRow, ...], frozenset[str]]:
    """Say which of the rows *found* (of `_by_name`) are the bridge's, and the others' names."""
    interfaces = [interface_row(row) for result in found[::2] for row in result["rows"]]
    ports = [port_row(row) for result in found[1::2] for row in result["rows"]]
    inside = await _inside(db, bridge, [port.uuid for port in ports])
    own = tuple(port for port in ports if port.uuid in inside)
    ids = {uuid for port in own for uuid in port.interfaces}
    mine = tuple(row for row in interfaces if row.uuid in ids)
    strangers = {port.name for port in ports if port.uuid not in inside}
    strangers |= {row.name for row in interfaces if row.uuid not in ids}
    return own, mine, frozenset(strangers)


async def _inside(db: Ovsdb, bridge: BridgeRow | None, ports: Sequence[str]) -> frozenset[str]:
    """Return those of *ports* that are on the bridge: as a rule all of them are."""
    if bridge is None or not ports:
        return frozenset()
    own = ["_uuid", "==", ["uuid", bridge.uuid]]

    def holds(some: Iterable[str]) -> Operation:
        return select("Bridge", [own, ["ports", "includes", to_uuids(some)]], ["name"])

    (together,) = await db.transact([holds(ports)])
    if together["rows"] or len(ports) == 1:
        return frozenset(ports if together["rows"] else ())
    alone = await db.transact([holds([port]) for port in ports])
    return frozenset(port for port, one in zip(ports, alone, strict=True) if one["rows"])


def _by_name(wanted: Iterable[str]) -> list[Operation]:
    return [
        select(table, [["name", "==", name]], columns)
        for name in wanted
        for table, columns in (("Interface", INTERFACE_COLUMNS), ("Port", PORT_COLUMNS))
    ]


def _is_of(slice_name: str) -> list[Any]:
    return _tagged({SLICE: slice_name})


def _tagged(tags: Mapping[str, str]) -> list[Any]:
    return ["external_ids", "includes", to_map(tags)]


def _bare(row: Result) -> BridgeRow:
    return bridge_row({**row, "ports": ["set", []]})


async def read_ports(db: Ovsdb, bridge: str) -> frozenset[str] | None:
    """Name the ports of the bridge called *bridge*; None where there is no such bridge."""
    bridges, ports = await db.transact(
        [
            select("Bridge", [["name", "==", bridge]], BRIDGE_COLUMNS),
            select("Port", [], PORT_COLUMNS),
        ]
    )
    if not bridges["rows"]:
        return None
    own = bridge_row(bridges["rows"][0]).ports
    return frozenset(port.name for port in map(port_row, ports["rows"]) if port.uuid in own)


async def read_tagged(db: Ovsdb, slice_name: str, wanted: Sequence[str]) -> list[str]:
    """Return the ids of those of the ports *wanted* that are the slice's, on whichever bridge."""
    results = await db.transact(
        [
            select(table, [["name", "==", one], *also], ["_uuid", "name"])
            for one in wanted
            for table, also in (
                ("Interface", [_is_of(slice_name)]),
                ("Port", []),
            )
        ]
    )
    ours = {row["name"] for result in results[::2] for row in result["rows"]}
    ports = [row for result in results[1::2] for row in result["rows"]]
    return [row["_uuid"][1] for row in ports if row["name"] in ours]


async def read_down(db: Ovsdb, links: Sequence[str]) -> list[str]:
    """Return those of *links* that the switch has open and sees down."""
    results = await db.transact(
        [select("Interface", [["name", "==", one]], ["name", "admin_state"]) for one in links]
    )
    rows = [row for result in results for row in result["rows"]]
    return [row["name"] for row in rows if row["admin_state"] == "down"]


async def read_qos(db: Ovsdb, ports: Sequence[str]) -> dict[str, str]:
    """Return the QoS row ids of those of *ports* that have one."""
    results = await db.transact(
        [select("Port", [["name", "==", one]], PORT_COLUMNS) for one in ports]
    )
    rows = [port_row(row) for result in results for row in result["rows"]]
    return {row.name: row.qos for row in rows if row.qos is not None}


async def _by_id(db: Ovsdb, table: str, ids: Iterable[str], columns: list[str]) -> list[Result]:
    ops = [select(table, [["_uuid", "==", ["uuid", one]]], columns) for one in sorted(ids)]
    return [row for result in await db.transact(ops) for row in result["rows"]] if ops else []
