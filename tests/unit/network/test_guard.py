"""What VMs have on the guard, operation by operation."""

from dataclasses import replace
from typing import Any

import pytest

from ccfd.errors import Refused
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import guard
from ccfd.network.changes import Snapshot, Switch
from ccfd.network.guard import SeenGuard
from ccfd.network.ports import PARKED
from ccfd.network.rows import BridgeRow, ControllerRow, InterfaceRow, PortRow, QosRow

SWITCH = Switch(name="h1", datapath_type="netdev", tunnel_ip="192.0.2.1", sharers=frozenset({"h1"}))
REMOTE = replace(SWITCH, listener="pssl:6653:192.0.2.1")
VM = "01234567-89ab-4def-8123-456789abcdef"
TAP = Port(name="ccf-0123456789a", kind="system", vm=VM, mac="02:e9:0a:00:00:02", ip="10.0.0.2")
OTHER = Port(name="ccf-9876543210f", kind="system", vm="98765432-10fe-4dcb-8a98-76543210fedc")
WANTED = Ports(host="h1", slice="demo", vni=1001, ports=(TAP,))
MINE = {"ccf-host": "h1", "ccf-slice": "demo", "ccf-vni": "1001"}
TAGS = MINE | {
    "ccf-guard": "tap",
    "ccf-vm": VM,
    "iface-id": VM,
    "attached-mac": "02:e9:0a:00:00:02",
    "ccf-ip": "10.0.0.2",
}
ROW = BridgeRow(
    uuid="g",
    name="ccf-guard",
    datapath_type="netdev",
    fail_mode="secure",
    external_ids={"ccf-guard": "yes"},
    other_config={"disable-in-band": "true"},
    ports=frozenset(),
    protocols=frozenset({"OpenFlow13"}),
)
NUMBER = 4242
TAP_ROW = InterfaceRow(
    uuid="i1",
    name=TAP.name,
    type="system",
    external_ids=TAGS,
    ofport=-1,
    ofport_request=NUMBER,
)
PATCH_ROW = InterfaceRow(
    uuid="i2",
    name="g-0123456789a",
    type="patch",
    options={"peer": "p-0123456789a"},
    external_ids=MINE,
    ofport=NUMBER + 1,
    ofport_request=NUMBER + 1,
)
ROWS = Snapshot(
    bridge=ROW,
    interfaces=(TAP_ROW, PATCH_ROW),
    ports=tuple(
        PortRow(uuid=f"p{row.uuid}", name=row.name, interfaces=frozenset({row.uuid}))
        for row in (TAP_ROW, PATCH_ROW)
    ),
    whole=False,
)
ABSENT = SeenGuard(rows=Snapshot(whole=False))
EMPTY = SeenGuard(rows=Snapshot(bridge=ROW, whole=False), taps={"ccf-other": 2})
SEEN = SeenGuard(rows=ROWS, taps={TAP.name: NUMBER, "ccf-other": 2})
ALONE = replace(SEEN, taps={TAP.name: NUMBER})


def said(value: dict[str, str]) -> list[Any]:
    return ["map", [[key, value[key]] for key in sorted(value)]]


def test_the_first_vm_brings_the_bridge_which_passes_nothing_by_itself() -> None:
    change = guard.join(WANTED, REMOTE, ABSENT)
    assert change.ops[0]["where"] == [["name", "==", "ccf-guard"]]
    assert change.ops[0]["rows"] == []
    inserted = {op["row"].get("name", op["table"]): op["row"] for op in change.ops if "row" in op}
    bridge = inserted["ccf-guard"]
    assert (bridge["fail_mode"], bridge["protocols"]) == ("secure", ["set", ["OpenFlow13"]])
    assert bridge["external_ids"] == said({"ccf-guard": "yes"})
    assert inserted["Controller"]["target"] == "pssl:6653:192.0.2.1"
    assert guard.join(replace(WANTED, ports=()), REMOTE, ABSENT).ops == []
    assert guard.join(replace(WANTED, ports=()), REMOTE, ABSENT, bare=True).ops


def test_a_tap_has_its_tags_and_both_ends_numbers_that_follow_each_other() -> None:
    change = guard.join(WANTED, SWITCH, EMPTY)
    still_there, unused, *_ = change.ops
    assert still_there["rows"] == [{"name": "ccf-guard"}]
    tap, patch = (
        op["row"] for op in change.ops if op["op"] == "insert" and op["table"] == "Interface"
    )
    assert tap["external_ids"] == said(TAGS)
    assert tap["ofport_request"] % 2 == 0
    assert patch["ofport_request"] == tap["ofport_request"] + 1
    assert patch["options"] == said({"peer": "p-0123456789a"})
    assert patch["external_ids"] == said(MINE)
    assert unused["where"][1] == ["ofport_request", "==", tap["ofport_request"]]
    assert unused["rows"] == []
    # Others plug in and out at the same time: nothing is said of their ports.
    assert not any("ports" in op.get("columns", ()) for op in change.ops)


def test_the_kernels_datapath_is_asked_for_where_the_settings_say_so() -> None:
    kernel = replace(SWITCH, datapath_type="system")
    (bridge,) = [
        op["row"]
        for op in guard.join(WANTED, kernel, ABSENT).ops
        if op.get("table") == "Bridge" and op["op"] == "insert"
    ]
    assert bridge["datapath_type"] == "system"
    assert guard.join(WANTED, kernel, SEEN).ops[-1]["row"] == {"datapath_type": "system"}


def test_a_number_in_use_is_passed_over() -> None:
    first = guard.join(WANTED, SWITCH, EMPTY).ops[1]["where"][1][2]
    taken = replace(EMPTY, taps={"ccf-other": first})
    assert guard.join(WANTED, SWITCH, taken).ops[1]["where"][1][2] == first + 2
    full = replace(EMPTY, taps={str(n): 2 * n for n in range(1, guard.PAIRS + 1)})
    with pytest.raises(Refused, match="no more fit"):
        guard.join(WANTED, SWITCH, full)


def test_what_is_there_and_equal_needs_nothing_and_another_address_is_written() -> None:
    assert guard.join(WANTED, SWITCH, SEEN).ops == []
    moved = replace(WANTED, ports=(replace(TAP, ip="10.0.0.9"),))
    change = guard.join(moved, SWITCH, SEEN)
    assert change.ops[-1]["row"] == {"external_ids": said(TAGS | {"ccf-ip": "10.0.0.9"})}


def test_a_tap_that_was_made_anew_is_parked_and_keeps_its_number() -> None:
    row = replace(TAP_ROW, ofport=NUMBER, ifindex=9)
    seen = replace(SEEN, rows=replace(ROWS, interfaces=(row, PATCH_ROW)))
    change = guard.join(WANTED, SWITCH, seen)
    assert change.ops[-1]["row"]["ofport_request"] == NUMBER | PARKED
    parked = replace(row, ofport_request=NUMBER | PARKED, external_ids=TAGS | {"ccf-ifindex": "9"})
    seen = replace(SEEN, rows=replace(ROWS, interfaces=(parked, PATCH_ROW)))
    assert guard.join(WANTED, SWITCH, seen).ops[-1]["row"] == {"ofport_request": NUMBER}


def test_a_guard_that_somebody_opened_is_secure_again_and_listens_where_it_shall() -> None:
    strange = ControllerRow(uuid="c", target="tcp:192.0.2.66:6653", connection_mode=None)
    rows = replace(ROWS, bridge=replace(ROW, fail_mode="standalone"), controllers=(strange,))
    change = guard.join(WANTED, SWITCH, replace(SEEN, rows=rows))
    assert change.ops[-1]["row"] == {"fail_mode": "secure", "controller": ["set", []]}


def test_the_last_tap_takes_the_bridge_along_if_it_still_is_the_last() -> None:
    change = guard.leave(guard.all_of(ALONE), ALONE)
    wait, told, gone = change.ops
    assert wait["rows"] == [{"name": TAP.name}]
    # Whatever else refers to the bridge would keep its row.
    assert told["table"] == "Flow_Sample_Collector_Set"
    assert told["where"] == [["bridge", "==", ["uuid", "g"]]]
    assert gone["mutations"] == [["bridges", "delete", ["set", [["uuid", "g"]]]]]
    others = guard.leave(guard.all_of(SEEN), SEEN)
    assert others.ops[-1]["mutations"] == [
        ["ports", "delete", ["set", [["uuid", "pi1"], ["uuid", "pi2"]]]]
    ]
    assert guard.leave((), SEEN).ops == []
    assert guard.leave(guard.all_of(ABSENT), ABSENT).ops == []


def test_a_slice_has_exactly_its_vms_there() -> None:
    bridge = Bridge(host="h1", slice="demo", vni=1001, ports=(OTHER,))
    change = guard.make(bridge, SWITCH, ALONE)
    names = [op["row"]["name"] for op in change.ops if op["op"] == "insert"]
    assert names == ["ccf-9876543210f"] * 2 + ["g-9876543210f"] * 2
    assert change.ops[-1]["mutations"][0][1] == "delete"
    nobody = guard.make(replace(bridge, ports=()), SWITCH, ALONE)
    assert nobody.ops[-1]["table"] == "Open_vSwitch"


def test_what_is_somebody_elses_is_refused_and_left_alone() -> None:
    theirs = replace(ROWS, bridge=replace(ROW, external_ids={}))
    with pytest.raises(Refused, match="not made by ccfd"):
        guard.join(WANTED, SWITCH, replace(SEEN, rows=theirs))
    assert guard.leave(guard.all_of(SEEN), replace(SEEN, rows=theirs)).ops == []
    with pytest.raises(Refused, match="by other VMs"):
        guard.join(replace(WANTED, ports=(replace(TAP, vm="0123456789ab-other"),)), SWITCH, SEEN)
    with pytest.raises(Refused, match="in use"):
        guard.join(WANTED, SWITCH, SeenGuard(rows=Snapshot(taken=frozenset({TAP.name}))))


LIMITED = replace(WANTED, ports=(replace(TAP, bandwidth=10),))
LIMIT = QosRow(
    uuid="q",
    type="linux-htb",
    other_config={"max-rate": "10000000"},
    external_ids=MINE | {"ccf-vm": VM, "ccf-port": TAP.name},
)


def test_a_vm_with_a_bandwidth_has_its_limit_with_its_tap() -> None:
    ops = guard.join(LIMITED, SWITCH, EMPTY).ops
    (limit,) = [op for op in ops if op.get("table") == "QoS"]
    assert limit["row"]["external_ids"] == said({**LIMIT.external_ids})
    (port,) = [op for op in ops if op["op"] == "insert" and op["row"].get("name") == TAP.name][1:]
    assert port["row"]["qos"] == ["named-uuid", limit["uuid-name"]]
    (tap,) = [op for op in ops if op["op"] == "insert" and op["table"] == "Interface"][:1]
    assert ["ccf-bandwidth", "10"] in tap["row"]["external_ids"][1]


def test_a_limit_goes_with_the_tap_and_also_where_that_is_gone_already() -> None:
    with_limit = replace(SEEN, rows=replace(ROWS, qos=(LIMIT,)))
    left = replace(ABSENT, rows=Snapshot(qos=(LIMIT,), whole=False))
    for seen in (with_limit, left):
        ops = guard.leave(guard.all_of(seen), seen).ops
        assert {"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", "q"]]]} in ops
    nobody = Bridge(host="h1", slice="demo", vni=1001)
    ops = guard.make(nobody, SWITCH, left).ops
    assert [op["table"] for op in ops] == ["Port", "QoS"]
