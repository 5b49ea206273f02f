"""What slices share on the control network, operation by operation."""

from dataclasses import replace
from typing import Any

import pytest

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Control, Port, Ports
from ccfd.network import bridges, control
from ccfd.network.changes import Snapshot, Switch
from ccfd.network.rows import BridgeRow, ControllerRow, InterfaceRow, PortRow

SWITCH = Switch(name="h1", datapath_type="netdev", tunnel_ip="192.0.2.1", sharers=frozenset({"h1"}))
PEER = "192.0.2.100"
PART = Control(
    host="h1", slice="demo", vni=1001, address="172.16.255.253/16", mtu=1450, uses=(PEER,)
)
USES = {f"ccf-use-1001-{PEER}": "demo"}
TUNNEL = names.tunnel(0, PEER)
TAP = Port(name="ccf-0123456789a", kind="system", vm="vm-id", mac="02:00:ac:10:00:65")
ROW = BridgeRow(
    uuid="b",
    name="ccf-0",
    datapath_type="netdev",
    fail_mode="standalone",
    external_ids={"ccf-control": "yes", **USES},
    other_config={
        "datapath-id": bridges.datapath_id(0, "h1"),
        "hwaddr": bridges.hardware_address(0, "h1"),
        "mac-table-size": "4096",
    },
    ports=frozenset({"p0", "p1"}),
    controllers=frozenset({"c"}),
)
INTERFACES = (
    InterfaceRow(uuid="i0", name="ccf-0", type="internal", ofport=65534, mtu_request=1450),
    InterfaceRow(
        uuid="i1",
        name=TUNNEL,
        type="vxlan",
        options={"remote_ip": PEER, "local_ip": "192.0.2.1", "key": "0"},
        external_ids={"ccf-host": "h1"},
        ofport=1,
        ofport_request=1,
    ),
)
SEEN = Snapshot(
    bridge=ROW,
    ports=tuple(
        PortRow(uuid=f"p{i}", name=row.name, interfaces=frozenset({row.uuid}))
        for i, row in enumerate(INTERFACES)
    ),
    interfaces=INTERFACES,
    controllers=(
        ControllerRow(
            uuid="c",
            target="ptcp:0:127.0.0.1",
            connection_mode="out-of-band",
            local_ip="172.16.255.253",
            local_netmask="255.255.0.0",
        ),
    ),
)
REMOVED = {
    "op": "mutate",
    "table": "Open_vSwitch",
    "where": [],
    "mutations": [["bridges", "delete", ["set", [["uuid", "b"]]]]],
}


def shared(*others: tuple[int, str, str]) -> Snapshot:
    """See the bridge with more users: VNI, name, tunnel address."""
    more = {f"ccf-use-{vni}-{peer}": name for vni, name, peer in others}
    return replace(SEEN, bridge=replace(ROW, external_ids={**ROW.external_ids, **more}))


def ids(change: Any) -> dict[str, str]:
    """Return the tags that a change writes."""
    (row,) = [op["row"] for op in change.ops if op["op"] == "update" and op["table"] == "Bridge"]
    return dict(row["external_ids"][1])


def test_the_first_slice_makes_the_bridge_with_its_tunnel_and_the_switchs_address() -> None:
    change = control.join(PART, SWITCH, Snapshot())
    assert change.ops[0]["where"] == [["name", "==", "ccf-0"]]
    inserted = {(op["table"], op["row"].get("name")): op["row"] for op in change.ops[1:-1]}
    assert inserted["Interface", "ccf-0"] == {
        "name": "ccf-0",
        "type": "internal",
        "mtu_request": 1450,
    }
    assert inserted["Interface", TUNNEL]["external_ids"] == ["map", [["ccf-host", "h1"]]]
    assert inserted["Controller", None] == {
        "target": "ptcp:0:127.0.0.1",
        "connection_mode": "out-of-band",
        "local_ip": "172.16.255.253",
        "local_netmask": "255.255.0.0",
    }
    bridge = inserted["Bridge", "ccf-0"]
    assert dict(bridge["external_ids"][1]) == {"ccf-control": "yes", **USES}
    assert bridge["controller"] == ["named-uuid", "Controller_ccf_0"]


def test_joining_again_changes_nothing() -> None:
    assert control.join(PART, SWITCH, SEEN).ops == []


def test_another_slice_joins_what_is_there_and_brings_its_tunnel() -> None:
    other = replace(PART, slice="other", vni=1002, uses=("", "192.0.2.2"))
    change = control.join(other, SWITCH, SEEN)
    assert change.ops[0]["op"] == "wait"
    assert ids(change) == {
        "ccf-control": "yes",
        **USES,
        "ccf-use-1002-": "other",
        "ccf-use-1002-192.0.2.2": "other",
    }
    made = [op["row"]["name"] for op in change.ops if op["op"] == "insert"]
    assert set(made) == {names.tunnel(0, "192.0.2.2")}


def test_a_switch_whose_address_has_changed_gets_the_new_one() -> None:
    change = control.join(replace(PART, address="172.16.255.252/16"), SWITCH, SEEN)
    (row,) = [op["row"] for op in change.ops if op.get("table") == "Controller"]
    assert row["local_ip"] == "172.16.255.252"


def test_the_last_slice_takes_the_bridge_along() -> None:
    assert control.leave(PART, SWITCH, SEEN).ops[1:] == [REMOVED]
    assert control.leave(replace(PART, uses=None), SWITCH, SEEN).ops[1:] == [REMOVED]
    assert control.leave(PART, SWITCH, Snapshot()).ops == []


def test_a_slice_that_leaves_takes_only_what_nobody_else_uses() -> None:
    same = control.leave(PART, SWITCH, shared((1002, "other", PEER)))
    assert ids(same) == {"ccf-control": "yes", f"ccf-use-1002-{PEER}": "other"}
    assert [op["op"] for op in same.ops] == ["wait", "update"], "the tunnel stays"
    without = control.leave(PART, SWITCH, shared((1002, "other", "")))
    assert without.ops[-1]["mutations"] == [["ports", "delete", ["set", [["uuid", "p1"]]]]]
    mine = shared((1001, "demo", ""), (1002, "other", ""))
    assert ids(control.leave(replace(PART, uses=None), SWITCH, mine)) == {
        "ccf-control": "yes",
        "ccf-use-1002-": "other",
    }
    assert control.leave(replace(PART, vni=1003, slice="new"), SWITCH, SEEN).ops == []


def test_a_slice_that_leaves_wholly_takes_its_controllers_ports_along() -> None:
    tap = InterfaceRow(uuid="i2", name=TAP.name, external_ids={"ccf-slice": "demo"})
    row = PortRow(uuid="p2", name=TAP.name, interfaces=frozenset({"i2"}))
    seen = shared((1002, "other", PEER))
    seen = replace(seen, ports=(*seen.ports, row), interfaces=(*seen.interfaces, tap))
    change = control.leave(replace(PART, uses=None), SWITCH, seen)
    assert change.ops[-1]["mutations"] == [["ports", "delete", ["set", [["uuid", "p2"]]]]]


def test_a_bridge_of_that_name_that_is_not_ours_is_left_alone() -> None:
    theirs = replace(SEEN, bridge=replace(ROW, external_ids={}))
    with pytest.raises(Refused, match="not made by ccfd"):
        control.join(PART, SWITCH, theirs)
    assert control.leave(PART, SWITCH, theirs).ops == []
    tap = Ports(host="h1", slice="demo", vni=0, ports=(TAP,))
    with pytest.raises(Refused, match="not made by ccfd"):
        bridges.plug(tap, SWITCH, theirs)


def test_controllers_of_all_slices_are_plugged_into_it() -> None:
    tap = Ports(host="h1", slice="demo", vni=0, ports=(TAP,))
    made = [op["row"] for op in bridges.plug(tap, SWITCH, SEEN).ops if op["op"] == "insert"]
    assert made[0]["name"] == names.patch("vm-id")
    assert ["ccf-slice", "demo"] in made[0]["external_ids"][1]


def test_what_is_used_is_read_back() -> None:
    bridge = shared((1002, "other", ""), (1002, "other", "2001:db8::2")).bridge
    assert bridge is not None
    assert control.uses_of(bridge) == {
        (1001, "demo"): {PEER},
        (1002, "other"): {"", "2001:db8::2"},
    }
    assert control.address_of(SEEN.controllers) == "172.16.255.253/16"
