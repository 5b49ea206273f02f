"""What one change of a switch's database is decided from, and what it is made of.

A change is the operations of one transaction. The first of them is a `wait` for the bridge to be
as it was seen, so that a change by somebody else makes the transaction fail instead of meeting it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ccfd.network.ovsdb import Operation
from ccfd.network.rows import (
    BridgeRow,
    CollectorRow,
    ControllerRow,
    ExportRow,
    InterfaceRow,
    PortRow,
    QosRow,
    to_map,
    to_uuids,
)

SLICE = "ccf-slice"
VNI = "ccf-vni"
ABOUT = "ccf-about"
VM = "ccf-vm"
HOST = "ccf-host"
IFINDEX = "ccf-ifindex"
CONTROL = "ccf-control"
GUARD = "ccf-guard"
IP = "ccf-ip"
BANDWIDTH = "ccf-bandwidth"
SAMPLING = "ccf-sampling"
USE = "ccf-use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A host's Open vSwitch, as the settings tell it.

    `name` is the host's, or of several that share the switch (a compute host that is the network
    node too) the first; `sharers` are all of them. `listener` is where the guard listens for us,
    empty where its own UNIX socket is within reach.
    """

    name: str
    datapath_type: str
    tunnel_ip: str
    sharers: frozenset[str]
    listener: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the database holds of one bridge, and of the names that it shall get.

    `taken` are those wanted names that stand outside of this bridge. `fresh` are ports that the
    caller itself inserted or parked since it began: the switch has just opened their links.
    `qos` and `collectors` are the rows of these tables that say that they are of these ports;
    `exports` are what the bridge, or these collectors, refer to.
    `whole` tells that all ports of the bridge were read, not only those asked for; else `numbers`
    are those that others have.
    """

    bridge: BridgeRow | None = None
    ports: tuple[PortRow, ...] = ()
    interfaces: tuple[InterfaceRow, ...] = ()
    controllers: tuple[ControllerRow, ...] = ()
    exports: tuple[ExportRow, ...] = ()
    taken: frozenset[str] = frozenset()
    next_cfg: int = 0
    fresh: frozenset[str] = frozenset()
    qos: tuple[QosRow, ...] = ()
    collectors: tuple[CollectorRow, ...] = ()
    whole: bool = True
    numbers: frozenset[int] = frozenset()


@dataclass(slots=True)
class Change:
    """The operations of one transaction, and the ports whose links it makes the switch open."""

    ops: list[Operation] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)

    @property
    def notes_only(self) -> bool:
        """Tell whether it is nothing, or only `external_ids`, which ovs-vswitchd does not read."""
        return all(
            op["op"] == "wait" or (op["op"] == "update" and op["row"].keys() == {"external_ids"})
            for op in self.ops
        )

    def and_also(self, other: "Change") -> "Change":
        """Return both as one transaction."""
        return Change([*self.ops, *other.ops], self.opened | other.opened)


def guarded(seen: Snapshot, change: Change) -> Change:
    """Put a `wait` for the bridge's owner and ports in front of operations, if there are any.

    Whoever knows only some ports asks for no more than that the bridge is still there and its
    owner's: a name that stands twice is refused by the database itself.
    """
    bridge = seen.bridge
    assert bridge is not None
    columns = {
        "external_ids": to_map(bridge.external_ids),
        "other_config": to_map(bridge.other_config),
    } | ({"ports": to_uuids(bridge.ports)} if seen.whole else {})
    if change.ops:
        where = [["_uuid", "==", ["uuid", bridge.uuid]]]
        change.ops.insert(0, wait("Bridge", where, [*columns], [columns]))
    return change


def wait(table: str, where: list[Any], columns: list[str], rows: list[dict[str, Any]]) -> Operation:
    """Have the transaction fail unless the rows that match *where* are *rows*."""
    return {
        "op": "wait",
        "table": table,
        "where": where,
        "columns": columns,
        "until": "==",
        "rows": rows,
        "timeout": 0,
    }


def select(table: str, where: Sequence[object], columns: list[str]) -> Operation:
    """Read *columns* of the rows that match *where*."""
    return {"op": "select", "table": table, "where": [*where], "columns": columns}


def insert_bridge(
    name: str, columns: Mapping[str, Any], ports: list[list[str]], change: Change
) -> None:
    """Insert a bridge with *ports*, if there is still none of its name."""
    row = {"name": name, **columns, "ports": ["set", ports]}
    change.ops = [
        wait("Bridge", [["name", "==", name]], ["name"], []),
        *change.ops,
        insert("Bridge", name, row),
        mutate("Open_vSwitch", [], ["bridges", "insert", ["set", [reference("Bridge", name)]]]),
    ]


def with_fresh(seen: Snapshot, fresh: set[str]) -> Snapshot:
    """Return *seen* with the ports that were opened meanwhile."""
    return replace(seen, fresh=frozenset(fresh))


def insert(table: str, name: str, row: Mapping[str, Any]) -> Operation:
    """Insert a row that the transaction itself may refer to by its *name*."""
    return {
        "op": "insert",
        "table": table,
        "uuid-name": reference(table, name)[1],
        "row": dict(row),
    }


def reference(table: str, name: str) -> list[str]:
    """Refer to a row that the same transaction inserts."""
    return ["named-uuid", f"{table}_{name}".replace("-", "_")]


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
