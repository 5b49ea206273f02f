"""What one change of a switch's database is decided from, and what it is made of.

A change is the operations of one transaction. The first of them is a `wait` for the bridge to be
as it was seen, so that a change by somebody else makes the transaction fail instead of meeting it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ccfd.network.ovsdb import Operation
from ccfd.network.rows import BridgeRow, ControllerRow, InterfaceRow, PortRow, to_map, to_uuids

SLICE = "ccf-slice"
VNI = "ccf-vni"
ABOUT = "ccf-about"
VM = "ccf-vm"
HOST = "ccf-host"
IFINDEX = "ccf-ifindex"
CONTROL = "ccf-control"
USE = "ccf-use"


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
    controllers: tuple[ControllerRow, ...] = ()
    taken: frozenset[str] = frozenset()
    next_cfg: int = 0
    fresh: frozenset[str] = frozenset()


@dataclass(slots=True)
class Change:
    """The operations of one transaction, and the ports whose links it makes the switch open."""

    ops: list[Operation] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)


def guarded(bridge: BridgeRow, change: Change) -> Change:
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


def insert_bridge(
    name: str, columns: Mapping[str, Any], ports: list[list[str]], change: Change
) -> None:
    """Insert a bridge with *ports*, if there is still none of its name."""
    absent = {
        "op": "wait",
        "table": "Bridge",
        "where": [["name", "==", name]],
        "columns": ["name"],
        "until": "==",
        "rows": [],
        "timeout": 0,
    }
    change.ops = [
        absent,
        *change.ops,
        {
            "op": "insert",
            "table": "Bridge",
            "uuid-name": "bridge",
            "row": {"name": name, **columns, "ports": ["set", ports]},
        },
        mutate("Open_vSwitch", [], ["bridges", "insert", ["set", [["named-uuid", "bridge"]]]]),
    ]


def with_fresh(seen: Snapshot, fresh: set[str]) -> Snapshot:
    """Return *seen* with the ports that were opened meanwhile."""
    return replace(seen, fresh=frozenset(fresh))


def update(table: str, uuid: str, columns: Mapping[str, Any]) -> Operation:
    """Set columns of one row."""
    return {
        "op": "update",
        "table": table,
        "where": [["_uuid", "==", ["uuid", uuid]]],
        "row": written(columns),
    }


def mutate_ports(bridge: BridgeRow, how: str, ports: list[Any]) -> Operation:
    """Insert ports into, or delete them from, a bridge."""
    where = [["_uuid", "==", ["uuid", bridge.uuid]]]
    return mutate("Bridge", where, ["ports", how, ports])


def mutate(table: str, where: list[Any], mutation: list[Any]) -> Operation:
    """Change a set in place."""
    return {"op": "mutate", "table": table, "where": where, "mutations": [mutation]}


def written(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return *columns* as the database wants them: maps are dicts, sets of words frozensets."""
    return {name: _written(value) for name, value in columns.items()}


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return to_map(value)
    return ["set", sorted(value)] if isinstance(value, frozenset) else value
