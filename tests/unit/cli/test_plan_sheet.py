"""What people are told of a plan."""

from typing import Any

from ccfd.cli.output import plain
from ccfd.cli.plan_sheet import plan

VM = {"id": "0b5c7a52", "name": "web", "host": "h1", "ip": "10.0.0.2", "image": {"name": "tiny"}}
PORTS = [
    {"name": "ccf-0b5c7a52", "kind": "system", "remote_ip": None, "vm": "0b5c7a52"},
    {"name": "t000001", "kind": "vxlan", "remote_ip": "192.0.2.1", "vm": None},
]


def said(document: dict[str, Any]) -> str:
    return "\n".join(line for block in plan(document) for line in plain(block))


def test_a_slice_tells_its_hosts_addresses_and_each_step_in_a_few_words() -> None:
    machine = {"host": "h1", "vm": VM["id"], "name": "web", "about": "{" + "x" * 200 + "}"}
    document = {
        "type": "slice.create",
        "plan": {"slice": {"name": "demo", "vni": 7, "user": None, "vms": [VM]}, "confirmed": True},
        "steps": [
            {"name": "open-namespace", "args": {"slice": "demo", "vni": 7, "mtu": 1450}},
            {"name": "make-bridge", "args": {"host": "h1", "vni": 7, "ports": PORTS}},
            {"name": "make-disk", "args": {"host": "h1", "vm": VM["id"], "image": VM["image"]}},
            {"name": "boot", "args": {"machine": machine, "port": {"host": "h1", "ports": PORTS}}},
        ],
    }
    assert said(document).splitlines() == [
        "type       slice.create",
        "name       demo",
        "vni        7",
        "confirmed  yes",
        "VMs:",
        "NAME  HOST  IP        IMAGE",
        "web   h1    10.0.0.2  tiny",
        "steps:",
        "STEP            HOST  OF",
        "open-namespace  -     mtu 1450",
        "make-bridge     h1    ports web, tunnel to 192.0.2.1",
        "make-disk       h1    web; image tiny",
        "boot            h1    machine web; ports web, tunnel to 192.0.2.1",
    ]


def test_requests_that_it_would_send_are_told() -> None:
    document: dict[str, Any] = {
        "type": "flavor.delete",
        "plan": {"flavor": "tiny", "vms": [{"vm": "0b5c7a52", "name": "web", "slice": "demo"}]},
        "steps": [],
        "requests": [{"type": "vm.delete", "data": {"vm": "0b5c7a52"}}],
    }
    assert said(document).splitlines()[-4:] == [
        "web   demo",
        "requests:",
        "TYPE       VM",
        "vm.delete  0b5c7a52",
    ]


def test_what_one_change_of_the_database_does_is_told_by_its_result() -> None:
    document: dict[str, Any] = {
        "type": "subnet.create",
        "plan": None,
        "steps": [],
        "result": {"owner": "demo"},
    }
    assert said(document).splitlines() == ["type  subnet.create", "owner  demo"]
