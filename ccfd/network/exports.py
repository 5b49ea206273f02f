"""Decides what has a bridge tell collectors of sFlow and IPFIX what passes it.

Columns are those of ovs-vswitchd.conf.db(5), tables sFlow and IPFIX. Their rows are no roots: they
go with the bridge that refers to them.
"""

from collections.abc import Iterable
from typing import Any

from ccfd.model.network import Export, Monitoring
from ccfd.network.changes import Change, insert, reference, written
from ccfd.network.rows import ExportRow, to_uuids

HEADER = 128
"""Bytes of a sampled packet that sFlow sends along: all headers, hardly any of what it carries."""
MOST_FLOWS = 4096
"""Flows that IPFIX puts together at a time, for each bridge."""
ONCE = {"enable-output-sampling": "false"}
"""What leaves a bridge has been told when it came: by the bridge, or by the guard."""

Wanted = dict[str, dict[str, Any]]


def rows(wanted: Export | None, vni: int, agent: str) -> Wanted:
    """Return the rows that *wanted* needs, by their tables.

    The agent is the switch's own tunnel address: it is certain, whereas Open vSwitch would look
    for one on the way to the collector and export nothing where it finds none. IPFIX names the
    slice by its observation domain.
    """
    found: Wanted = {}
    if wanted is not None and wanted.to.sflow is not None:
        found["sFlow"] = {
            "targets": (wanted.to.sflow,),
            "agent": agent,
            "header": HEADER,
            "polling": wanted.polling,
            "sampling": wanted.sampling,
        }
    if wanted is not None and wanted.to.ipfix is not None:
        found["IPFIX"] = {
            "targets": (wanted.to.ipfix,),
            "sampling": wanted.sampling,
            "obs_domain_id": vni,
            "cache_active_timeout": wanted.polling,
            "cache_max_flows": MOST_FLOWS,
            "other_config": ONCE,
        }
    return found


def attach(wanted: Wanted, present: Iterable[ExportRow], change: Change) -> dict[str, Any]:
    """Have the bridge refer to the rows *wanted* and no others; return what its row must be set to.

    A row that nothing refers to any more goes by itself.
    """
    there = {row.table: row.columns for row in present}
    columns: dict[str, Any] = {}
    for table in ("sFlow", "IPFIX"):
        row = wanted.get(table)
        if row == there.get(table):
            continue
        if row is None:
            columns[table.lower()] = to_uuids([])
            continue
        name = table.lower()
        columns[name] = insert_row(table, name, row, change)
    return columns


def insert_row(table: str, name: str, row: dict[str, Any], change: Change) -> list[str]:
    """Insert one of `rows`, known by *name* to its transaction; return how it is referred to."""
    columns = written({**row, "targets": frozenset(row["targets"])})
    change.ops.append(insert(table, name, columns))
    return reference(table, name)


def read(present: Iterable[ExportRow]) -> Export | None:
    """Tell what a bridge with these rows exports; what no `rows` would make is told differently."""
    there = {row.table: row.columns for row in present}
    if not there:
        return None
    sflow, ipfix = there.get("sFlow", {}), there.get("IPFIX", {})
    rates = {row["sampling"] for row in there.values()}
    pauses = {
        *([sflow["polling"]] if sflow else []),
        *([ipfix["cache_active_timeout"]] if ipfix else []),
    }
    return Export(
        to=Monitoring(sflow=_only(sflow), ipfix=_only(ipfix)),
        sampling=rates.pop() or 0 if len(rates) == 1 else 0,
        polling=pauses.pop() or 0 if len(pauses) == 1 else 0,
    )


def _only(row: Any) -> str | None:
    return ", ".join(row["targets"]) if row else None
