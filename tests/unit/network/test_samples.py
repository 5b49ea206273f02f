"""Each VM that collectors of IPFIX are told of has one set of them, and leaves none behind."""

from dataclasses import replace

import pytest

from ccfd.model.network import Bridge, Export, Monitoring
from ccfd.network import guard, samples, shaping
from ccfd.network.changes import Change, Snapshot
from ccfd.network.ovsdb import Operation
from ccfd.network.rows import CollectorRow, ExportRow
from tests.unit.network.test_exports import IPFIX, IPFIX_ROW
from tests.unit.network.test_guard import ABSENT, EMPTY, ROW, ROWS, SEEN, SWITCH, TAP, VM, WANTED

TOLD = Export(to=Monitoring(ipfix=IPFIX), sampling=64, polling=20)
TAGS = shaping.tags(TAP.name, VM, "demo", 1001, "h1")
SET = CollectorRow(uuid="c", id=40, bridge="g", ipfix="i", external_ids=TAGS)
STRAY = replace(SET, uuid="d")
STRANGER = replace(SET, uuid="s", external_ids={"ccf-port": "ccf-2"})
EXPORT = ExportRow(uuid="i", table="IPFIX", columns=IPFIX_ROW)


def tell(wanted: Export | None, *seen: CollectorRow, export: ExportRow = EXPORT) -> list[Operation]:
    change = Change()
    there = Snapshot(bridge=ROW, collectors=(*seen, STRANGER), exports=(export,))
    samples.tell(wanted, TAGS, 40, there, change)
    return change.ops


def deletion(uuid: str) -> Operation:
    where = [["_uuid", "==", ["uuid", uuid]]]
    return {"op": "delete", "table": "Flow_Sample_Collector_Set", "where": where}


def test_a_set_comes_with_its_collector_on_the_guard() -> None:
    ipfix, one = tell(TOLD)
    assert (ipfix["table"], one["table"]) == ("IPFIX", "Flow_Sample_Collector_Set")
    assert ipfix["row"]["targets"] == ["set", [IPFIX]]
    assert (one["row"]["id"], one["row"]["bridge"]) == (40, ["uuid", "g"])
    assert one["row"]["ipfix"] == ["named-uuid", ipfix["uuid-name"]]
    assert dict(one["row"]["external_ids"][1]) == TAGS


def test_what_is_so_already_is_left() -> None:
    assert tell(TOLD, SET) == []
    assert tell(None) == []


@pytest.mark.parametrize(
    ("wrong", "column"),
    [
        (replace(SET, id=42), "id"),
        (replace(SET, bridge="x"), "bridge"),
        (replace(SET, external_ids={"ccf-port": TAP.name}), "external_ids"),
    ],
)
def test_what_differs_is_put_right(wrong: CollectorRow, column: str) -> None:
    (op,) = tell(TOLD, wrong)
    assert (op["op"], [*op["row"]]) == ("update", [column])


def test_another_collector_takes_the_place_of_the_one_before() -> None:
    ipfix, op = tell(replace(TOLD, sampling=1), SET)
    assert (ipfix["op"], ipfix["row"]["sampling"]) == ("insert", 1)
    assert op["row"] == {"ipfix": ["named-uuid", ipfix["uuid-name"]]}
    lost = tell(TOLD, replace(SET, ipfix=None))
    assert [one["op"] for one in lost] == ["insert", "update"]


def test_of_several_one_is_kept_and_who_is_told_nothing_has_none() -> None:
    assert tell(TOLD, SET, STRAY) == [deletion("d")]
    assert tell(None, SET, STRAY) == [deletion("c"), deletion("d")]


def test_a_watched_vm_has_its_set_in_the_transaction_that_makes_its_tap() -> None:
    watched = replace(WANTED, ports=(replace(TAP, export=TOLD),))
    for seen, bridge in ((ABSENT, ["named-uuid", "Bridge_ccf_guard"]), (EMPTY, ["uuid", "g"])):
        ops = guard.join(watched, SWITCH, seen).ops
        inserted = [op for op in ops if op["op"] == "insert"]
        (one,) = [op["row"] for op in inserted if op["table"] == samples.TABLE]
        (tap, _patch) = [op["row"] for op in inserted if op["table"] == "Interface"][-2:]
        assert (one["bridge"], one["id"]) == (bridge, tap["ofport_request"])
        assert ["ccf-sampling", "64"] in tap["external_ids"][1]


def test_a_set_goes_with_the_tap_and_also_where_that_is_gone_already() -> None:
    whole = replace(SEEN, rows=replace(ROWS, collectors=(SET,)))
    left = replace(ABSENT, rows=Snapshot(collectors=(SET,), whole=False))
    for seen in (whole, left):
        assert deletion("c") in guard.leave(guard.all_of(seen), seen).ops
    nobody = Bridge(host="h1", slice="demo", vni=1001)
    assert guard.make(nobody, SWITCH, left).ops == [deletion("c")]
    assert deletion("c") in guard.make(nobody, SWITCH, whole).ops
