"""Each VM with a bandwidth has one row of table QoS, and leaves none behind."""

from dataclasses import replace

from ccfd.network import shaping
from ccfd.network.changes import Change
from ccfd.network.ovsdb import Operation
from ccfd.network.rows import PortRow, QosRow

TAGS = shaping.tags("ccf-1", "vm", "demo", 1001, "h1")
PORT = PortRow(uuid="p", name="ccf-1", interfaces=frozenset({"i"}), qos="q")
ROW = QosRow(uuid="q", type="linux-htb", other_config={"max-rate": "10000000"}, external_ids=TAGS)
STRAY = replace(ROW, uuid="a")
STRANGER = replace(ROW, uuid="s", external_ids={"ccf-port": "ccf-2"})


def shape(
    bandwidth: int | None, present: PortRow | None, *seen: QosRow
) -> tuple[object, list[Operation]]:
    change = Change()
    columns = shaping.shape(TAGS, bandwidth, present, [*seen, STRANGER], change)
    return columns, change.ops


def deletion(uuid: str) -> Operation:
    return {"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", uuid]]]}


def test_a_row_comes_with_its_port() -> None:
    columns, (op,) = shape(10, None)
    assert (op["op"], op["table"]) == ("insert", "QoS")
    assert op["row"]["type"] == "linux-htb"
    assert op["row"]["other_config"] == ["map", [["max-rate", "10000000"]]]
    assert dict(op["row"]["external_ids"][1]) == TAGS
    assert columns == {"qos": ["named-uuid", op["uuid-name"]]}


def test_what_is_so_already_is_left() -> None:
    assert shape(10, PORT, ROW) == ({}, [])
    assert shape(None, replace(PORT, qos=None)) == ({}, [])
    # What somebody else has put there is no limit of ours, and none is wanted.
    assert shape(None, replace(PORT, qos="s")) == ({}, [])


def test_a_row_that_lost_its_port_is_used_again() -> None:
    assert shape(10, None, ROW) == ({"qos": ["uuid", "q"]}, [])
    assert shape(10, replace(PORT, qos=None), ROW) == ({"qos": ["uuid", "q"]}, [])


def test_another_bandwidth_changes_the_row_and_none_takes_it_away() -> None:
    columns, (op,) = shape(20, PORT, ROW)
    assert columns == {}
    assert (op["op"], op["row"]) == (
        "update",
        {"other_config": ["map", [["max-rate", "20000000"]]]},
    )
    assert shape(None, PORT, ROW) == ({"qos": ["set", []]}, [deletion("q")])


def test_of_several_one_is_kept() -> None:
    assert shape(10, PORT, STRAY, ROW) == ({}, [deletion("a")])
    assert shape(10, None, ROW, STRAY) == ({"qos": ["uuid", "a"]}, [deletion("q")])


def test_the_rows_of_a_port_go_with_it() -> None:
    ops = shaping.release({"ccf-1"}, [STRAY, ROW, STRANGER])
    assert ops[1::2] == [deletion("a"), deletion("q")]
    assert [(op["table"], op["where"], op["row"]) for op in ops[::2]] == [
        ("Port", [["qos", "==", ["uuid", uuid]]], {"qos": ["set", []]}) for uuid in ("a", "q")
    ]


def test_a_row_says_how_fast_it_is() -> None:
    assert shaping.bandwidth_of(ROW) == 10
    assert shaping.bandwidth_of(None) is None
    assert shaping.bandwidth_of(replace(ROW, type="linux-hfsc")) is None
    assert shaping.bandwidth_of(replace(ROW, other_config={"max-rate": "5"})) is None
    assert shaping.bandwidth_of(replace(ROW, other_config={})) is None
