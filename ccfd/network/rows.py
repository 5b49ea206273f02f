"""Reads the rows of an Open vSwitch database, and writes values as it wants them.

RFC 7047, section 5.1, writes a value with one member bare, others as `["set", […]]` and
`["map", […]]`; the columns are those of ovs-vswitchd.conf.db(5).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BRIDGE_COLUMNS = [
    "_uuid",
    "name",
    "datapath_type",
    "fail_mode",
    "external_ids",
    "other_config",
    "ports",
    "controller",
    "protocols",
    "sflow",
    "ipfix",
]
PORT_COLUMNS = ["_uuid", "name", "interfaces", "qos"]
QOS_COLUMNS = ["_uuid", "type", "other_config", "external_ids"]
EXPORT_COLUMNS = {
    "sFlow": ["_uuid", "targets", "agent", "header", "polling", "sampling"],
    "IPFIX": [
        "_uuid",
        "targets",
        "sampling",
        "obs_domain_id",
        "cache_active_timeout",
        "cache_max_flows",
        "other_config",
    ],
}
COLLECTOR_COLUMNS = ["_uuid", "id", "bridge", "ipfix", "external_ids"]
CONTROLLER_COLUMNS = [
    "_uuid",
    "target",
    "connection_mode",
    "controller_rate_limit",
    "local_ip",
    "local_netmask",
]
INTERFACE_COLUMNS = [
    "_uuid",
    "name",
    "type",
    "options",
    "external_ids",
    "ofport",
    "ofport_request",
    "ifindex",
    "error",
    "mtu_request",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRow:
    """A row of table Bridge; `ports`, `controllers` and `exports` (by their tables) are row ids."""

    uuid: str
    name: str
    datapath_type: str
    fail_mode: str | None
    external_ids: Mapping[str, str]
    other_config: Mapping[str, str]
    ports: frozenset[str]
    controllers: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    exports: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerRow:
    """A row of table Controller: `rate_limit` in packets a second.

    `local_ip` and `local_netmask` are what the bridge's own link has on the host.
    """

    uuid: str
    target: str
    connection_mode: str | None
    rate_limit: int | None = None
    local_ip: str | None = None
    local_netmask: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """A row of `table` (sFlow or IPFIX), by its columns; `targets` is in order, maps are dicts."""

    uuid: str
    table: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorRow:
    """A row of table Flow_Sample_Collector_Set; `bridge` and `ipfix` are row ids."""

    uuid: str
    id: int
    bridge: str
    ipfix: str | None
    external_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRow:
    """A row of table Port; `qos` is a row id."""

    uuid: str
    name: str
    interfaces: frozenset[str]
    qos: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QosRow:
    """A row of table QoS."""

    uuid: str
    type: str
    other_config: Mapping[str, str]
    external_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceRow:
    """A row of table Interface; `ofport` is -1 while the switch cannot open the link."""

    uuid: str
    name: str
    type: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    ofport: int | None = None
    ofport_request: int | None = None
    ifindex: int = 0
    error: str | None = None
    mtu_request: int | None = None


def bridge_row(row: Mapping[str, Any]) -> BridgeRow:
    """Read a row with BRIDGE_COLUMNS."""
    return BridgeRow(
        uuid=row["_uuid"][1],
        name=row["name"],
        datapath_type=row["datapath_type"],
        fail_mode=as_optional(row["fail_mode"]),
        external_ids=as_map(row["external_ids"]),
        other_config=as_map(row["other_config"]),
        ports=as_uuids(row["ports"]),
        controllers=as_uuids(row["controller"]),
        protocols=frozenset(_members(row["protocols"])),
        exports={"sFlow": as_uuids(row["sflow"]), "IPFIX": as_uuids(row["ipfix"])},
    )


def controller_row(row: Mapping[str, Any]) -> ControllerRow:
    """Read a row with CONTROLLER_COLUMNS."""
    return ControllerRow(
        uuid=row["_uuid"][1],
        target=row["target"],
        connection_mode=as_optional(row["connection_mode"]),
        rate_limit=as_optional(row["controller_rate_limit"]),
        local_ip=as_optional(row["local_ip"]),
        local_netmask=as_optional(row["local_netmask"]),
    )


def export_row(table: str, row: Mapping[str, Any]) -> ExportRow:
    """Read a row of *table* with its EXPORT_COLUMNS."""
    columns = {name: as_optional(row[name]) for name in EXPORT_COLUMNS[table] if name != "_uuid"}
    columns["targets"] = tuple(sorted(_members(row["targets"])))
    if "other_config" in row:
        columns["other_config"] = as_map(row["other_config"])
    return ExportRow(uuid=row["_uuid"][1], table=table, columns=columns)


def collector_row(row: Mapping[str, Any]) -> CollectorRow:
    """Read a row with COLLECTOR_COLUMNS, without what it exports."""
    return CollectorRow(
        uuid=row["_uuid"][1],
        id=row["id"],
        bridge=row["bridge"][1],
        ipfix=next(iter(as_uuids(row["ipfix"])), None),
        external_ids=as_map(row["external_ids"]),
    )


def port_row(row: Mapping[str, Any]) -> PortRow:
    """Read a row with PORT_COLUMNS."""
    return PortRow(
        uuid=row["_uuid"][1],
        name=row["name"],
        interfaces=as_uuids(row["interfaces"]),
        qos=next(iter(as_uuids(row["qos"])), None),
    )


def qos_row(row: Mapping[str, Any]) -> QosRow:
    """Read a row with QOS_COLUMNS."""
    return QosRow(
        uuid=row["_uuid"][1],
        type=row["type"],
        other_config=as_map(row["other_config"]),
        external_ids=as_map(row["external_ids"]),
    )


def interface_row(row: Mapping[str, Any]) -> InterfaceRow:
    """Read a row with INTERFACE_COLUMNS."""
    return InterfaceRow(
        uuid=row["_uuid"][1],
        name=row["name"],
        type=row["type"],
        options=as_map(row["options"]),
        external_ids=as_map(row["external_ids"]),
        ofport=as_optional(row["ofport"]),
        ofport_request=as_optional(row["ofport_request"]),
        ifindex=as_optional(row["ifindex"]) or 0,
        error=as_optional(row["error"]),
        mtu_request=as_optional(row["mtu_request"]),
    )


def to_map(values: Mapping[str, str]) -> list[Any]:
    """Write a map, in the order of its keys."""
    return ["map", [[key, values[key]] for key in sorted(values)]]


def to_uuids(ids: Iterable[str]) -> list[Any]:
    """Write a set of references to rows."""
    return ["set", [["uuid", one] for one in sorted(ids)]]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, list) and value[0] == kind


def as_optional(value: Any) -> Any:
    """Read a column that may be empty: None then."""
    if _is(value, "set"):
        return value[1][0] if value[1] else None
    return value


def as_map(value: Any) -> dict[str, str]:
    """Read a map; numbers become text."""
    return {str(key): str(text) for key, text in value[1]}


def as_uuids(value: Any) -> frozenset[str]:
    """Read a set of references to rows."""
    return frozenset(one[1] for one in _members(value))


def _members(value: Any) -> list[Any]:
    members: list[Any] = value[1] if _is(value, "set") else [value]
    return members
