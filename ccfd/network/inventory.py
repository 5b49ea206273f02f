"""Reads all that a switch holds of ours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ccfd.model.network import Export
from ccfd.network import control, exports, shaping
from ccfd.network.changes import ABOUT, HOST, IP, SLICE, VM, VNI, select
from ccfd.network.ovsdb import Ovsdb
from ccfd.network.ports import MAC, PARKED, is_tap
from ccfd.network.rows import (
    BRIDGE_COLUMNS,
    CONTROLLER_COLUMNS,
    EXPORT_COLUMNS,
    INTERFACE_COLUMNS,
    PORT_COLUMNS,
    BridgeRow,
    CollectorRow,
    ControllerRow,
    ExportRow,
    InterfaceRow,
    PortRow,
    bridge_row,
    collector_row,
    controller_row,
    export_row,
    interface_row,
    port_row,
    qos_row,
)
from ccfd.network.snapshot import OF_PORTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBridge:
    """A bridge with a tag of ours; `vni` is None where that tag is missing.

    `about` is what it tells of its slice, empty where an older release made it. `targets` are the
    controllers that it dials; `secure` tells that it does not forward without them. `export` is
    what it tells collectors.
    """

    name: str
    slice: str
    vni: int | None
    about: str = ""
    targets: tuple[str, ...] = ()
    secure: bool = False
    export: Export | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPort:
    """An interface with a tag of ours, whichever bridge it is on (None: on none of `bridges`).

    `host` is whose it is, where several hosts share the switch. Of one on the guard `vni` is its
    network's; `mac` and `ip` are what its VM is known by there, `export` is what is told of it.
    """

    name: str
    slice: str
    host: str | None = None
    vm: str | None
    kind: str
    bridge: str | None
    ofport: int | None
    error: str | None
    vni: int | None = None
    mac: str | None = None
    ip: str | None = None
    bandwidth: int | None = None
    export: Export | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStray:
    """A row that limits, or tells of, nothing any more: not the `port` that it says it is of."""

    port: str
    slice: str
    host: str | None
    vni: int | None


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
    strays: tuple[SeenStray, ...] = ()


async def read_inventory(db: Ovsdb) -> Inventory:
    """Read every bridge and interface that carries `external_ids:ccf-slice`."""
    results = await db.transact(
        [
            select("Bridge", [], BRIDGE_COLUMNS),
            select("Port", [], PORT_COLUMNS),
            select("Interface", [], INTERFACE_COLUMNS),
            select("Controller", [], CONTROLLER_COLUMNS),
            *(select(table, [], columns) for table, columns in OF_PORTS),
            *(select(table, [], columns) for table, columns in EXPORT_COLUMNS.items()),
        ]
    )
    (
        bridges_result,
        ports_result,
        interfaces_result,
        controllers_result,
        qos_result,
        collectors_result,
        *exports_results,
    ) = results
    exported: dict[str, ExportRow] = {
        row.uuid: row
        for table, result in zip(EXPORT_COLUMNS, exports_results, strict=True)
        for row in (export_row(table, one) for one in result["rows"])
    }
    controllers = {row.uuid: row for row in map(controller_row, controllers_result["rows"])}
    bridges = [bridge_row(row) for row in bridges_result["rows"]]
    ports = [port_row(row) for row in ports_result["rows"]]
    bridge_of_port = {uuid: bridge.name for bridge in bridges for uuid in bridge.ports}
    bridge_of = {uuid: bridge_of_port.get(port.uuid) for port in ports for uuid in port.interfaces}
    interfaces = sorted(map(interface_row, interfaces_result["rows"]), key=lambda row: row.name)
    limits = {row.uuid: row for row in map(qos_row, qos_result["rows"])}
    limit_of = {port.name: limits.get(port.qos or "") for port in ports}
    collectors = [collector_row(row) for row in collectors_result["rows"]]
    told_of = _told_of(collectors, interfaces)
    return Inventory(
        bridges=tuple(
            SeenBridge(
                name=bridge.name,
                slice=bridge.external_ids[SLICE],
                vni=_number(bridge.external_ids.get(VNI)),
                about=bridge.external_ids.get(ABOUT, ""),
                targets=tuple(sorted(controllers[uuid].target for uuid in bridge.controllers)),
                secure=bridge.fail_mode == "secure",
                export=exports.read(
                    exported[uuid] for uuids in bridge.exports.values() for uuid in uuids
                ),
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
                vni=_number(row.external_ids.get(VNI)),
                mac=row.external_ids.get(MAC),
                ip=row.external_ids.get(IP),
                bandwidth=shaping.bandwidth_of(limit_of.get(row.name)),
                export=exports.read(
                    exported[one.ipfix]
                    for one in (told_of.get(row.name),)
                    if one is not None and one.ipfix in exported
                ),
            )
            for row in interfaces
            if SLICE in row.external_ids
        ),
        control=next(
            (_control(row, controllers, ports) for row in bridges if control.is_control(row)), None
        ),
        strays=tuple(
            SeenStray(
                port=row.external_ids[shaping.PORT],
                slice=row.external_ids[SLICE],
                host=row.external_ids.get(HOST),
                vni=_number(row.external_ids.get(VNI)),
            )
            for of_port, rows in ((limit_of, limits.values()), (told_of, collectors))
            for row in rows
            if {SLICE, shaping.PORT} <= row.external_ids.keys()
            and of_port.get(row.external_ids[shaping.PORT]) != row
        ),
    )


def _told_of(
    collectors: Iterable[CollectorRow], interfaces: Iterable[InterfaceRow]
) -> dict[str, CollectorRow]:
    """Return the rows that tell of taps, by the taps' names."""
    numbers = {row.name: row.ofport_request for row in interfaces if is_tap(row)}
    return {
        name: row
        for row in collectors
        for name in (row.external_ids.get(shaping.PORT, ""),)
        if (numbers.get(name) or 0) & ~PARKED == row.id
    }


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
