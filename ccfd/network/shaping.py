"""Decides what keeps what comes to a VM within its bandwidth: a QoS row of its tap's port.

Open vSwitch has Linux's htb do it (ovs-vswitchd.conf.db(5), table QoS, `linux-htb`; docs/adr/0021).
Rows of that table do not go by themselves when no port refers to them any more. So each is tagged
with its port's name and its slice, what is found under a tag is used again, and whoever takes a
port away takes all rows with its name along.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ccfd.network.changes import HOST, SLICE, VM, VNI, Change, insert, reference, update, written
from ccfd.network.ovsdb import Operation
from ccfd.network.rows import PortRow, QosRow, to_uuids

PORT = "ccf-port"
TYPE = "linux-htb"
MBIT = 1_000_000


def shape(
    wanted: Mapping[str, str],
    bandwidth: int | None,
    present: PortRow | None,
    seen: Iterable[QosRow],
    change: Change,
) -> dict[str, Any]:
    """Have one row with the tags *wanted*, or none; return what the Port row must be set to."""
    # The one that the port has already is kept.
    own = sorted(
        (row for row in seen if row.external_ids.get(PORT) == wanted[PORT]),
        key=lambda row: (present is None or row.uuid != present.qos, row.uuid),
    )
    if bandwidth is None:
        change.ops += map(_deletion, own)
        refers = present is not None and present.qos in {row.uuid for row in own}
        return {"qos": to_uuids([])} if refers else {}
    columns = {
        "type": TYPE,
        "other_config": {"max-rate": str(bandwidth * MBIT)},
        "external_ids": dict(wanted),
    }
    if not own:
        change.ops.append(insert("QoS", wanted[PORT], written(columns)))
        return {"qos": reference("QoS", wanted[PORT])}
    kept, *others = own
    change.ops += map(_deletion, others)
    wrong = {name: value for name, value in columns.items() if getattr(kept, name) != value}
    if wrong:
        change.ops.append(update("QoS", kept.uuid, wrong))
    return {} if present and present.qos == kept.uuid else {"qos": ["uuid", kept.uuid]}


def tags(port: str, vm: str, slice_name: str, vni: int, host: str) -> dict[str, str]:
    """Return what tells whose a row is."""
    return {PORT: port, VM: vm, SLICE: slice_name, VNI: str(vni), HOST: host}


def lay_anew(port: str, qos: str) -> tuple[Operation, Operation]:
    """Take the row *qos* off the port, and give it back: one after the other, each applied."""
    where = [["name", "==", port]]
    off = {"op": "update", "table": "Port", "where": where, "row": {"qos": to_uuids([])}}
    return off, {**off, "row": {"qos": ["uuid", qos]}}


def release(ports: Collection[str], seen: Iterable[QosRow]) -> list[Operation]:
    """Delete the rows of *ports*, which the same transaction takes away.

    A port counts as referring to its row until the transaction is over.
    """
    ops = []
    for row in seen:
        if row.external_ids.get(PORT) in ports:
            ops += [_clearing(row), _deletion(row)]
    return ops


def bandwidth_of(row: QosRow | None) -> int | None:
    """Return the Mbit/s that a row stands for; None where it is of another kind."""
    if row is None:
        return None
    rate = row.other_config.get("max-rate", "")
    whole = row.type == TYPE and rate.isdecimal() and int(rate) % MBIT == 0
    return int(rate) // MBIT if whole else None


def _clearing(row: QosRow) -> Operation:
    return {
        "op": "update",
        "table": "Port",
        "where": [["qos", "==", ["uuid", row.uuid]]],
        "row": {"qos": to_uuids([])},
    }


def _deletion(row: QosRow) -> Operation:
    return {"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", row.uuid]]]}
