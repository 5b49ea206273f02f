"""Decides what has the guard tell a collector of IPFIX what a VM sends.

The VM's flows sample what they let pass (`guard_flows`), for a set of collectors that has the
number of its tap: one row of table Flow_Sample_Collector_Set, and one of IPFIX, which goes with it
(ovs-vswitchd.conf.db(5); docs/adr/0022). The former does not go by itself, and keeps the row of its
bridge as well. So each is tagged as limits are (`shaping`): what is found under a tag is used
again, and whoever takes a port away takes all rows with its name along.
"""

from collections.abc import Collection, Iterable, Mapping

from ccfd.model import names
from ccfd.model.network import Export
from ccfd.network import exports
from ccfd.network.changes import VNI, Change, Snapshot, insert, reference, update, written
from ccfd.network.ovsdb import Operation
from ccfd.network.rows import BridgeRow, CollectorRow
from ccfd.network.shaping import PORT

TABLE = "Flow_Sample_Collector_Set"
OF = 65_535
"""What the probability of a sample is counted in."""


def tell(
    wanted: Export | None, tags: Mapping[str, str], tap: int, seen: Snapshot, change: Change
) -> None:
    """Have one row with *tags* for the tap with that number, or none, on the guard as it was seen.

    Where there was none the same transaction makes it.
    """
    own = sorted(
        (row for row in seen.collectors if row.external_ids.get(PORT) == tags[PORT]),
        key=lambda row: row.uuid,
    )
    if wanted is None:
        change.ops += map(_deletion, own)
        return
    row = exports.rows(wanted, int(tags[VNI]), agent="")["IPFIX"]
    columns = {"id": tap, "external_ids": dict(tags)}
    bridge = reference("Bridge", names.GUARD)
    if seen.bridge is not None:
        bridge = ["uuid", seen.bridge.uuid]
    if not own:
        ipfix = exports.insert_row("IPFIX", tags[PORT], row, change)
        whole = {**written(columns), "bridge": bridge, "ipfix": ipfix}
        change.ops.append(insert(TABLE, tags[PORT], whole))
        return
    kept, *others = own
    change.ops += map(_deletion, others)
    wrong = {name: value for name, value in columns.items() if getattr(kept, name) != value}
    if ["uuid", kept.bridge] != bridge:
        wrong["bridge"] = bridge
    if not any(one.uuid == kept.ipfix and one.columns == row for one in seen.exports):
        wrong["ipfix"] = exports.insert_row("IPFIX", tags[PORT], row, change)
    if wrong:
        change.ops.append(update(TABLE, kept.uuid, wrong))


def release(ports: Collection[str], seen: Iterable[CollectorRow]) -> list[Operation]:
    """Delete the rows of *ports*, which the same transaction takes away."""
    return [_deletion(row) for row in seen if row.external_ids.get(PORT) in ports]


def release_all(guard: BridgeRow) -> Operation:
    """Delete whatever refers to the guard, which the same transaction takes away."""
    return {"op": "delete", "table": TABLE, "where": [["bridge", "==", ["uuid", guard.uuid]]]}


def action(tap: int, vni: int, sampling: int) -> str:
    """Return the action that tells of one packet of *sampling*, as `ovs-ofctl` prints it."""
    return (
        f"sample(probability={max(1, OF // sampling)},collector_set_id={tap},"
        f"obs_domain_id={vni},obs_point_id={tap},sampling_port={tap},ingress)"
    )


def _deletion(row: CollectorRow) -> Operation:
    return {"op": "delete", "table": TABLE, "where": [["_uuid", "==", ["uuid", row.uuid]]]}
