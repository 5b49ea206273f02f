"""What is changed in a switch's database, operation by operation."""

from dataclasses import replace
from typing import Any

import pytest

from ccfd.errors import Refused
from ccfd.model.network import Bridge, Controller, Port, Ports
from ccfd.network import bridges
from ccfd.network.changes import Snapshot, Switch
from ccfd.network.ports import PARKED, is_unsettled
from ccfd.network.rows import BridgeRow, ControllerRow, InterfaceRow, PortRow

SWITCH = Switch(name="h1", datapath_type="netdev", tunnel_ip="192.0.2.1", sharers=frozenset({"h1"}))
TUNNEL = Port(name="t0003e9c0000209", kind="vxlan", remote_ip="192.0.2.9")
LEG = Port(name="ccf-i-1001", kind="system")
VM = "01234567-89ab-4def-8123-456789abcdef"
TAP = Port(name="ccf-0123456789a", kind="system", vm=VM, mac="02:e9:0a:00:00:02", ip="10.0.0.2")
WANTED = Bridge(host="h1", slice="demo", vni=1001, ports=(TUNNEL, LEG))
TAGS = {"ccf-slice": "demo", "ccf-host": "h1"}
CONFIG = {
    "datapath-id": bridges.datapath_id(1001, "h1"),
    "hwaddr": bridges.hardware_address(1001, "h1"),
    "mac-table-size": "4096",
}
ROW = BridgeRow(
    uuid="b",
    name="ccf-1001",
    datapath_type="netdev",
    fail_mode="standalone",
    external_ids={"ccf-slice": "demo", "ccf-vni": "1001"},
    other_config=CONFIG,
    ports=frozenset({"p0", "p1", "p2"}),
)
LOCAL_ROW = InterfaceRow(uuid="i0", name="ccf-1001", type="internal", ofport=65534)
TUNNEL_ROW = InterfaceRow(
    uuid="i1",
    name=TUNNEL.name,
    type="vxlan",
    options={"remote_ip": "192.0.2.9", "local_ip": "192.0.2.1", "key": "1001"},
    external_ids=TAGS,
    ofport=1,
    ofport_request=1,
)
LEG_ROW = InterfaceRow(
    uuid="i2",
    name=LEG.name,
    type="system",
    external_ids=TAGS,
    ofport=-1,
    ofport_request=2,
)
PORT_ROWS = tuple(
    PortRow(uuid=f"p{i}", name=row.name, interfaces=frozenset({row.uuid}))
    for i, row in enumerate((LOCAL_ROW, TUNNEL_ROW, LEG_ROW))
)
SEEN = Snapshot(
    bridge=ROW, ports=PORT_ROWS, interfaces=(LOCAL_ROW, TUNNEL_ROW, LEG_ROW), next_cfg=5
)
GUARD = {
    "op": "wait",
    "table": "Bridge",
    "where": [["_uuid", "==", ["uuid", "b"]]],
    "columns": ["external_ids", "other_config", "ports"],
    "until": "==",
    "rows": [
        {
            "external_ids": ["map", [["ccf-slice", "demo"], ["ccf-vni", "1001"]]],
            "other_config": ["map", [[key, CONFIG[key]] for key in sorted(CONFIG)]],
            "ports": ["set", [["uuid", "p0"], ["uuid", "p1"], ["uuid", "p2"]]],
        }
    ],
    "timeout": 0,
}


NEW = ("ccf_1001", TUNNEL.name, "ccf_i_1001")


def ports(*ports: Port) -> Ports:
    return Ports(host="h1", slice="demo", vni=1001, ports=ports)


def with_leg(**columns: Any) -> Snapshot:
    return replace(SEEN, interfaces=(LOCAL_ROW, TUNNEL_ROW, replace(LEG_ROW, **columns)))


def delete(*ids: str) -> dict[str, Any]:
    return {
        "op": "mutate",
        "table": "Bridge",
        "where": [["_uuid", "==", ["uuid", "b"]]],
        "mutations": [["ports", "delete", ["set", [["uuid", one] for one in ids]]]],
    }


def update(uuid: str, **row: Any) -> dict[str, Any]:
    return {
        "op": "update",
        "table": "Interface",
        "where": [["_uuid", "==", ["uuid", uuid]]],
        "row": row,
    }


def test_what_a_bridge_tells_is_brought_up_to_date_and_kept_by_older_plans() -> None:
    told = replace(WANTED, about="new")
    old = replace(SEEN, bridge=replace(ROW, external_ids={**ROW.external_ids, "ccf-about": "old"}))
    (written,) = [op for op in bridges.make(told, SWITCH, old).ops if op["op"] == "update"]
    ids = dict(written["row"]["external_ids"][1])
    assert ids == {"ccf-slice": "demo", "ccf-vni": "1001", "ccf-about": "new"}
    assert bridges.make(WANTED, SWITCH, old).ops == []


def test_a_new_bridge_comes_with_all_its_ports_in_one_transaction() -> None:
    change = bridges.make(WANTED, SWITCH, Snapshot())
    assert [(op["op"], op.get("table")) for op in change.ops] == [
        ("wait", "Bridge"),
        *[("insert", "Interface"), ("insert", "Port")] * 3,
        ("insert", "Bridge"),
        ("mutate", "Open_vSwitch"),
    ]
    assert change.ops[0]["rows"] == []
    assert change.ops[0]["where"] == [["name", "==", "ccf-1001"]]
    assert change.ops[1]["row"] == {"name": "ccf-1001", "type": "internal"}
    assert change.ops[3]["row"] == {
        "name": TUNNEL.name,
        "type": "vxlan",
        "options": [
            "map",
            [["key", "1001"], ["local_ip", "192.0.2.1"], ["remote_ip", "192.0.2.9"]],
        ],
        "external_ids": ["map", [["ccf-host", "h1"], ["ccf-slice", "demo"]]],
        "ofport_request": 1,
    }
    assert change.ops[5]["row"] == {
        "name": LEG.name,
        "type": "system",
        "options": ["map", []],
        "external_ids": ["map", [[key, TAGS[key]] for key in sorted(TAGS)]],
        "ofport_request": 2,
    }
    assert change.ops[-2]["row"] == {
        "name": "ccf-1001",
        "datapath_type": "netdev",
        "fail_mode": "standalone",
        "protocols": ["set", []],
        "external_ids": ["map", [["ccf-slice", "demo"], ["ccf-vni", "1001"]]],
        "other_config": ["map", [[key, CONFIG[key]] for key in sorted(CONFIG)]],
        "ports": ["set", [["named-uuid", f"Port_{name}"] for name in NEW]],
    }
    assert change.ops[-1]["mutations"] == [
        ["bridges", "insert", ["set", [["named-uuid", "Bridge_ccf_1001"]]]]
    ]


def test_a_vm_is_a_patch_to_the_guard_whose_tap_is_not_here() -> None:
    patch = replace(
        LEG_ROW,
        name="p-0123456789a",
        type="patch",
        options={"peer": "g-0123456789a"},
    )
    plugged = bridges.plug(ports(TAP), SWITCH, SEEN)
    made = [op["row"] for op in plugged.ops if op["op"] == "insert"]
    assert made[0] == {
        "name": patch.name,
        "type": "patch",
        "options": ["map", [["peer", "g-0123456789a"]]],
        "external_ids": ["map", [["ccf-host", "h1"], ["ccf-slice", "demo"]]],
        "ofport_request": 3,
    }
    there = replace(
        SEEN,
        interfaces=(patch,),
        ports=(PortRow(uuid="p2", name=patch.name, interfaces=frozenset({"i2"})),),
        whole=False,
        numbers=frozenset({1, 2}),
    )
    assert bridges.plug(ports(TAP), SWITCH, there).ops == []
    few = bridges.plug(ports(replace(TAP, vm=VM[::-1])), SWITCH, there)
    assert few.ops[0]["columns"] == ["external_ids", "other_config"]  # others come and go
    assert few.ops[1]["row"]["ofport_request"] == 3
    assert bridges.unplug(ports(TAP), there).ops[-1] == delete("p2")


def test_what_is_there_and_equal_needs_nothing() -> None:
    assert bridges.make(WANTED, SWITCH, SEEN).ops == []
    assert bridges.plug(ports(TUNNEL, LEG), SWITCH, SEEN).ops == []


def test_only_what_differs_is_corrected_and_other_peoples_keys_stay() -> None:
    row = replace(
        ROW, fail_mode=None, external_ids={**ROW.external_ids, "note": "x"}, datapath_type="system"
    )
    change = bridges.make(WANTED, SWITCH, replace(SEEN, bridge=row))
    assert change.ops[1:] == [
        {
            "op": "update",
            "table": "Bridge",
            "where": [["_uuid", "==", ["uuid", "b"]]],
            "row": {"datapath_type": "netdev", "fail_mode": "standalone"},
        }
    ]


CONTROLLER = Controller(address="198.51.100.9", port=6633)
CONTROLLED = replace(WANTED, controller=CONTROLLER)
CONTROLLER_ROW = ControllerRow(
    uuid="c", target="tcp:198.51.100.9:6633", connection_mode="out-of-band", rate_limit=1000
)
SEEN_CONTROLLED = replace(
    SEEN,
    bridge=replace(
        ROW,
        fail_mode="secure",
        protocols=frozenset({"OpenFlow10", "OpenFlow13"}),
        controllers=frozenset({"c"}),
    ),
    controllers=(CONTROLLER_ROW,),
)
DIALS = {
    "op": "insert",
    "table": "Controller",
    "uuid-name": "Controller_ccf_1001",
    "row": {
        "target": "tcp:198.51.100.9:6633",
        "connection_mode": "out-of-band",
        "controller_rate_limit": 1000,
    },
}


def test_a_bridge_with_a_controller_dials_it_and_never_forwards_by_itself() -> None:
    attached = {
        "fail_mode": "secure",
        "protocols": ["set", ["OpenFlow10", "OpenFlow13"]],
        "controller": ["named-uuid", "Controller_ccf_1001"],
    }
    change = bridges.make(CONTROLLED, SWITCH, SEEN)
    assert change.ops[1] == DIALS
    assert change.ops[2]["row"] == attached
    new = bridges.make(CONTROLLED, SWITCH, Snapshot())
    assert DIALS in new.ops
    assert new.ops[-2]["row"].items() >= attached.items()
    assert bridges.make(CONTROLLED, SWITCH, SEEN_CONTROLLED).ops == []


def test_without_its_controller_a_bridge_forwards_by_itself_again() -> None:
    change = bridges.make(WANTED, SWITCH, SEEN_CONTROLLED)
    assert change.ops[1:] == [
        {
            "op": "update",
            "table": "Bridge",
            "where": [["_uuid", "==", ["uuid", "b"]]],
            "row": {
                "fail_mode": "standalone",
                "protocols": ["set", []],
                "controller": ["set", []],
            },
        }
    ]


def test_another_controller_takes_the_place_of_whatever_the_bridge_dials() -> None:
    stray = replace(CONTROLLER_ROW, uuid="d", target="tcp:192.0.2.77:6633")
    seen = replace(SEEN_CONTROLLED, controllers=(CONTROLLER_ROW, stray))
    change = bridges.make(CONTROLLED, SWITCH, seen)
    assert change.ops[1] == DIALS
    assert change.ops[2]["row"] == {"controller": ["named-uuid", "Controller_ccf_1001"]}


def test_an_address_of_ipv6_is_dialled_in_brackets() -> None:
    assert Controller(address="2001:db8::9", port=6653).target == "tcp:[2001:db8::9]:6653"


def test_ports_that_are_too_many_go_and_missing_ones_come() -> None:
    other = replace(TUNNEL, name="t0003e9c000020a", remote_ip="192.0.2.10")
    change = bridges.make(replace(WANTED, ports=(other, LEG)), SWITCH, SEEN)
    assert change.ops[0] == GUARD
    assert change.ops[1]["row"]["name"] == other.name
    assert change.ops[1]["row"]["ofport_request"] == 3  # 1 is still in use
    assert change.ops[-1] == delete("p1")


def test_unplugging_removes_these_ports_only() -> None:
    assert bridges.unplug(ports(LEG), SEEN).ops == [GUARD, delete("p2")]
    assert bridges.unplug(ports(replace(LEG, name="gone")), SEEN).ops == []
    assert bridges.unplug(ports(LEG), Snapshot()).ops == []


def test_removing_takes_the_bridge_and_its_ports_go_with_it() -> None:
    assert bridges.remove(WANTED, SWITCH, SEEN).ops == [
        GUARD,
        {
            "op": "mutate",
            "table": "Open_vSwitch",
            "where": [],
            "mutations": [["bridges", "delete", ["set", [["uuid", "b"]]]]],
        },
    ]
    assert bridges.remove(WANTED, SWITCH, Snapshot()).ops == []


def test_somebody_elses_bridge_is_refused_by_name_and_left_alone() -> None:
    theirs = replace(SEEN, bridge=replace(ROW, external_ids={"ccf-slice": "other"}))
    with pytest.raises(Refused, match="of slice other"):
        bridges.make(WANTED, SWITCH, theirs)
    with pytest.raises(Refused, match="of slice other"):
        bridges.plug(ports(LEG), SWITCH, theirs)
    assert bridges.remove(WANTED, SWITCH, theirs).ops == []
    assert bridges.unplug(ports(LEG), theirs).ops == []
    with pytest.raises(Refused, match="not made by ccfd"):
        bridges.make(WANTED, SWITCH, replace(SEEN, bridge=replace(ROW, external_ids={})))


def test_a_name_in_use_elsewhere_is_refused() -> None:
    with pytest.raises(Refused, match=LEG.name):
        bridges.make(WANTED, SWITCH, Snapshot(taken=frozenset({LEG.name})))


def test_plugging_without_a_bridge_says_to_make_it_first() -> None:
    with pytest.raises(Refused, match="make it first"):
        bridges.plug(ports(LEG), SWITCH, Snapshot())


def test_a_port_whose_link_was_made_anew_is_parked_then_brought_back() -> None:
    ids = TAGS | {"ccf-ifindex": "9"}
    same = bridges.plug(ports(LEG), SWITCH, with_leg(ofport=2, ifindex=9, external_ids=ids))
    assert same.ops == []

    moved = bridges.plug(ports(LEG), SWITCH, with_leg(ofport=2, ifindex=11, external_ids=ids))
    now = TAGS | {"ccf-ifindex": "11"}
    written = ["map", [[key, now[key]] for key in sorted(now)]]
    assert moved.ops == [GUARD, update("i2", external_ids=written, ofport_request=2 | PARKED)]
    assert moved.opened == {LEG.name}

    parked = with_leg(ofport=2 | PARKED, ofport_request=2 | PARKED, ifindex=11, external_ids=now)
    back = bridges.plug(ports(LEG), SWITCH, parked)
    assert back.ops == [GUARD, update("i2", ofport_request=2)]
    assert back.opened == {LEG.name}
    assert not back.notes_only


def test_a_port_whose_link_is_gone_is_parked_so_that_it_waits_for_the_next() -> None:
    ids = TAGS | {"ccf-ifindex": "9"}
    written = ["map", [[key, TAGS[key]] for key in sorted(TAGS)]]
    change = bridges.plug(ports(LEG), SWITCH, with_leg(ofport=2, ifindex=0, external_ids=ids))
    assert change.ops == [GUARD, update("i2", external_ids=written, ofport_request=2 | PARKED)]
    waiting = with_leg(ofport=-1, ofport_request=2 | PARKED)
    assert bridges.plug(ports(LEG), SWITCH, waiting).ops == [GUARD, update("i2", ofport_request=2)]


def test_a_link_that_was_opened_just_now_is_noted_not_opened_again() -> None:
    seen = replace(with_leg(ofport=2, ifindex=9), fresh=frozenset({LEG.name}))
    now = TAGS | {"ccf-ifindex": "9"}
    written = ["map", [[key, now[key]] for key in sorted(now)]]
    change = bridges.plug(ports(LEG), SWITCH, seen)
    assert change.ops == [GUARD, update("i2", external_ids=written)]
    assert change.notes_only
    assert change.opened == set()


def test_a_port_that_waits_for_its_link_is_settled_unless_it_is_parked() -> None:
    assert not is_unsettled(LEG_ROW)
    assert is_unsettled(replace(LEG_ROW, ofport=2))
    assert is_unsettled(replace(LEG_ROW, ofport_request=2 | PARKED))


def test_hosts_that_share_a_switch_leave_each_others_ports_alone() -> None:
    shared = replace(SWITCH, name="node", sharers=frozenset({"node", "h1"}))
    row = replace(
        ROW,
        other_config=CONFIG
        | {
            "datapath-id": bridges.datapath_id(1001, "node"),
            "hwaddr": bridges.hardware_address(1001, "node"),
        },
    )
    seen = replace(SEEN, bridge=row)
    of_node = Bridge(host="node", slice="demo", vni=1001)
    assert bridges.make(of_node, shared, seen).ops == []
    assert bridges.remove(of_node, shared, seen).ops == []
    of_h1 = bridges.remove(WANTED, shared, seen)
    assert of_h1.ops[-1]["table"] == "Open_vSwitch"


def test_ids_are_stable_and_differ_by_host_and_slice() -> None:
    assert bridges.datapath_id(1001, "h1") == bridges.datapath_id(1001, "h1")
    ids = {bridges.datapath_id(v, h) for v in (1, 2) for h in ("h1", "h2")}
    assert len(ids) == 4
    assert all(len(one) == 16 for one in ids)
    assert int(bridges.hardware_address(1, "h1")[:2], 16) & 0b11 == 0b10
