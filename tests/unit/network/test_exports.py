"""What has a bridge tell collectors what passes it, row by row."""

from dataclasses import replace
from typing import Any

import pytest

from ccfd.model.network import Bridge, Export, Monitoring
from ccfd.network import bridges, exports
from ccfd.network.changes import Change, Snapshot, Switch
from ccfd.network.rows import ExportRow, export_row, to_map
from tests.unit.network.test_bridges import SEEN, SWITCH, WANTED

SFLOW, IPFIX = "198.51.100.8:6343", "[2001:db8::9]:4739"
BOTH = Export(to=Monitoring(sflow=SFLOW, ipfix=IPFIX), sampling=64, polling=20)
WATCHED = replace(WANTED, export=BOTH)
SFLOW_ROW = {
    "targets": (SFLOW,),
    "agent": "192.0.2.1",
    "header": 128,
    "polling": 20,
    "sampling": 64,
}
IPFIX_ROW = {
    "targets": (IPFIX,),
    "sampling": 64,
    "obs_domain_id": 1001,
    "cache_active_timeout": 20,
    "cache_max_flows": 4096,
    "other_config": {"enable-output-sampling": "false"},
}
ROWS = (
    ExportRow(uuid="s", table="sFlow", columns=SFLOW_ROW),
    ExportRow(uuid="i", table="IPFIX", columns=IPFIX_ROW),
)
SEEN_WATCHED = replace(SEEN, exports=ROWS)


def told(wanted: Bridge, switch: Switch, seen: Snapshot) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows that are inserted, and what is set on the bridge."""
    ops = bridges.make(wanted, switch, seen).ops
    inserted = [op for op in ops if op["op"] == "insert" and op["table"] in ("sFlow", "IPFIX")]
    (bridge,) = [op["row"] for op in ops if op["table"] == "Bridge" and op["op"] != "wait"] or [{}]
    return inserted, {name: bridge[name] for name in ("sflow", "ipfix") if name in bridge}


@pytest.mark.parametrize("seen", [SEEN, Snapshot(next_cfg=5)])
def test_a_bridge_gets_its_rows_in_the_transaction_that_makes_or_changes_it(
    seen: Snapshot,
) -> None:
    inserted, columns = told(WATCHED, SWITCH, seen)
    assert [op["table"] for op in inserted] == ["sFlow", "IPFIX"]
    assert inserted[0]["row"] == {**SFLOW_ROW, "targets": ["set", [SFLOW]]}
    assert inserted[1]["row"] == {
        **IPFIX_ROW,
        "targets": ["set", [IPFIX]],
        "other_config": to_map({"enable-output-sampling": "false"}),
    }
    assert columns == {
        "sflow": ["named-uuid", "sFlow_sflow"],
        "ipfix": ["named-uuid", "IPFIX_ipfix"],
    }


def test_what_is_so_already_is_left() -> None:
    assert bridges.make(WATCHED, SWITCH, SEEN_WATCHED).ops == []


def test_who_is_told_nothing_more_is_taken_off() -> None:
    inserted, columns = told(WANTED, SWITCH, SEEN_WATCHED)
    assert (inserted, columns) == ([], {"sflow": ["set", []], "ipfix": ["set", []]})
    only = replace(BOTH, to=Monitoring(sflow=SFLOW))
    assert told(replace(WANTED, export=only), SWITCH, SEEN_WATCHED) == ([], {"ipfix": ["set", []]})


@pytest.mark.parametrize(
    ("column", "value"), [("targets", ("192.0.2.66:1",)), ("agent", "lo"), ("sampling", 1)]
)
def test_what_differs_is_replaced(column: str, value: object) -> None:
    row = replace(ROWS[0], columns={**SFLOW_ROW, column: value})
    inserted, columns = told(WATCHED, SWITCH, replace(SEEN, exports=(row, ROWS[1])))
    assert [op["row"]["agent"] for op in inserted] == ["192.0.2.1"]
    assert columns == {"sflow": ["named-uuid", "sFlow_sflow"]}


def test_what_a_bridge_tells_is_read_from_its_rows() -> None:
    assert exports.read(ROWS) == BOTH
    assert exports.read(ROWS[:1]) == replace(BOTH, to=Monitoring(sflow=SFLOW))
    assert exports.read(ROWS[1:]) == replace(BOTH, to=Monitoring(ipfix=IPFIX))
    assert exports.read(()) is None


@pytest.mark.parametrize(
    ("column", "value"), [("targets", (SFLOW, "192.0.2.66:1")), ("sampling", 1), ("polling", None)]
)
def test_what_somebody_changed_is_read_as_something_else(column: str, value: object) -> None:
    row = replace(ROWS[0], columns={**SFLOW_ROW, column: value})
    assert exports.read((row, ROWS[1])) != BOTH


def test_columns_that_are_not_set_are_read_as_nothing() -> None:
    nothing = ["set", []]
    row = export_row(
        "sFlow",
        {
            "_uuid": ["uuid", "s"],
            "targets": SFLOW,
            **dict.fromkeys(("agent", "header", "polling", "sampling"), nothing),
        },
    )
    assert row.columns["targets"] == (SFLOW,)
    assert exports.read((row,)) != replace(BOTH, to=Monitoring(sflow=SFLOW))
    assert exports.attach({}, (row,), Change()) == {"sflow": ["set", []]}
