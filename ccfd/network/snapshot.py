"""Reads what a switch's database holds at the moment: of one bridge, or of all that is ours."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ccfd.network import control
from ccfd.network.changes import ABOUT, HOST, SLICE, VM, VNI, Snapshot
from ccfd.network.ovsdb import DATABASE, Operation, Ovsdb, Result
from ccfd.network.rows import (
    BRIDGE_COLUMNS,
    CONTROLLER_COLUMNS,
    INTERFACE_COLUMNS,
    PORT_COLUMNS,
    BridgeRow,
    ControllerRow,
    PortRow,
    bridge_row,
    controller_row,
    interface_row,
    port_row,
    to_map,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBridge:
    """A bridge with a tag of ours; `vni` is None where that tag is missing.

    `about` is what it tells of its slice, empty where an older release made it. `targets` are the
    controllers that it dials; `secure` tells that it does not forward without them.
    """

    name: str
    slice: str
    vni: int | None
    about: str = ""
    targets: tuple[str, ...] = ()
    secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPort:
    """An interface with a tag of ours, whichever bridge it is on (None: on none of `bridges`).

    `host` is whose it is, where several hosts share the switch.
    """

    name: str
    slice: str
    host: str | None = None
    vm: str | None
    kind: str
    bridge: str | None
    ofport: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenControl:
    """The control network on a switch.

    `uses` are as in `model.network.Control`, by the VNI and the name of the slice; `address` is
    the switch's own with its prefix, or empty; `ports` are all names of ports on the bridge.
    """

    uses: Mapping[tuple[int, str], frozenset[str]]
    address: str
    ports: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that one switch holds of ours; `control` is None where it is not on that network."""

    bridges: tuple[SeenBridge, ...]
    ports: tuple[SeenPort, ...]
    control: SeenControl | None = None


async def read_bridge(db: Ovsdb, name: str, wanted: Iterable[str]) -> Snapshot:
    """Read the bridge *name* and what stands under the names *wanted*."""
    asked = sorted({name, *wanted})
    first = await db.transact(
        [
            _select(DATABASE, [], ["next_cfg"]),
            _select("Bridge", [["name", "==", name]], BRIDGE_COLUMNS),
            *(_select("Interface", [["name", "==", one]], ["_uuid", "name"]) for one in asked),
            *(_select("Port", [["name", "==", one]], ["_uuid", "name"]) for one in asked),
        ]
    )
    next_cfg = int(first[0]["rows"][0]["next_cfg"])
    found = [row for result in first[2:] for row in result["rows"]]
    if not first[1]["rows"]:
        return Snapshot(taken=frozenset(row["name"] for row in found), next_cfg=next_cfg)
    bridge = bridge_row(first[1]["rows"][0])
    ports = [port_row(row) for row in await _by_id(db, "Port", bridge.ports, PORT_COLUMNS)]
    ids = {uuid for port in ports for uuid in port.interfaces}
    rows = await _by_id(db, "Interface", ids, INTERFACE_COLUMNS)
    controllers = await _by_id(db, "Controller", bridge.controllers, CONTROLLER_COLUMNS)
    inside = bridge.ports | ids
    return Snapshot(
        bridge=bridge,
        ports=tuple(ports),
        interfaces=tuple(interface_row(row) for row in rows),
        controllers=tuple(controller_row(row) for row in controllers),
        taken=frozenset(row["name"] for row in found if row["_uuid"][1] not in inside),
        next_cfg=next_cfg,
    )


async def read_ports(db: Ovsdb, bridge: str) -> frozenset[str] | None:
    """Name the ports of the bridge called *bridge*; None where there is no such bridge."""
    bridges, ports = await db.transact(
        [
            _select("Bridge", [["name", "==", bridge]], BRIDGE_COLUMNS),
            _select("Port", [], PORT_COLUMNS),
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
            _select(table, [["name", "==", one], *also], ["_uuid", "name"])
            for one in wanted
            for table, also in (
                ("Interface", [["external_ids", "includes", to_map({SLICE: slice_name})]]),
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
        [_select("Interface", [["name", "==", one]], ["name", "admin_state"]) for one in links]
    )
    rows = [row for result in results for row in result["rows"]]
    return [row["name"] for row in rows if row["admin_state"] == "down"]


async def read_inventory(db: Ovsdb) -> Inventory:
    """Read every bridge and interface that carries `external_ids:ccf-slice`."""
    bridges_result, ports_result, interfaces_result, controllers_result = await db.transact(
        [
            _select("Bridge", [], BRIDGE_COLUMNS),
            _select("Port", [], PORT_COLUMNS),
            _select("Interface", [], INTERFACE_COLUMNS),
            _select("Controller", [], CONTROLLER_COLUMNS),
        ]
    )
    controllers = {row.uuid: row for row in map(controller_row, controllers_result["rows"])}
    bridges = [bridge_row(row) for row in bridges_result["rows"]]
    ports = [port_row(row) for row in ports_result["rows"]]
    bridge_of_port = {uuid: bridge.name for bridge in bridges for uuid in bridge.ports}
    bridge_of = {uuid: bridge_of_port.get(port.uuid) for port in ports for uuid in port.interfaces}
    return Inventory(
        bridges=tuple(
            SeenBridge(
                name=bridge.name,
                slice=bridge.external_ids[SLICE],
                vni=_number(bridge.external_ids.get(VNI)),
                about=bridge.external_ids.get(ABOUT, ""),
                targets=tuple(sorted(controllers[uuid].target for uuid in bridge.controllers)),
                secure=bridge.fail_mode == "secure",
            )
            for bridge in sorted(bridges, key=lambda bridge: bridge.name)
            if SLICE in bridge.external_ids
        ),
        ports=tuple(
            SeenPort(
                name=row.name,
                slice=row.external_ids[SLICE],
                host=row.external_ids.get(HOST),
                vm=row.external_ids.get(VM),
                kind=row.type,
                bridge=bridge_of.get(row.uuid),
                ofport=row.ofport,
                error=row.error,
            )
            for row in sorted(
                map(interface_row, interfaces_result["rows"]), key=lambda row: row.name
            )
            if SLICE in row.external_ids
        ),
        control=next(
            (_control(row, controllers, ports) for row in bridges if control.is_control(row)), None
        ),
    )


def _control(
    bridge: BridgeRow, controllers: Mapping[str, ControllerRow], ports: Iterable[PortRow]
) -> SeenControl:
    rows = [controllers[uuid] for uuid in bridge.controllers]
    return SeenControl(
        uses=control.uses_of(bridge),
        address=control.address_of(rows),
        ports=frozenset(port.name for port in ports if port.uuid in bridge.ports),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


async def _by_id(db: Ovsdb, table: str, ids: Iterable[str], columns: list[str]) -> list[Result]:
    ops = [_select(table, [["_uuid", "==", ["uuid", one]]], columns) for one in sorted(ids)]
    return [row for result in await db.transact(ops) for row in result["rows"]] if ops else []


def _select(table: str, where: list[object], columns: list[str]) -> Operation:
    return {"op": "select", "table": table, "where": where, "columns": columns}
