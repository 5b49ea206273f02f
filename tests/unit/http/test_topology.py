"""How a slice hangs together, as its switches tell it, for programs, people and Prometheus."""

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, generate_latest

from ccfd.cli.output import plain
from ccfd.cli.topology_sheet import topology as tree
from ccfd.http import topology
from ccfd.http.api import errors
from ccfd.http.port_metrics import PortMetrics
from ccfd.model import names
from ccfd.network.mirror import Mirror, WatchedBridge, WatchedPort
from ccfd.network.monitor import Monitor
from ccfd.settings import Settings
from tests.harness import Harness, lab_settings
from tests.unit.network import switch_rows as rows
from tests.unit.network.switch_rows import interface, new

VNI = 1001
IDS = {name: f"{name}5c7a52-6a51-4a8e-9f10-1f2e3d4c5b6a" for name in ("aa", "bb", "cc", "dd")}
NODE_IP, H1_IP = "192.0.2.100", "192.0.2.1"


def vm(name: str, host: str | None, **more: Any) -> dict[str, Any]:
    common = {"kind": "slice", "state": "running", "ip": "10.0.0.2"}
    return {"vm": IDS[name], "name": name, "host": host, **common, **more}


def demo(*vms: dict[str, Any]) -> dict[str, Any]:
    return {"slice": "demo", "vni": VNI, "controller": None, "vms": [*vms]}


def switch(*interfaces: dict[str, Any], connected: bool = True) -> Mirror:
    """Give a switch with slice demo's bridge, a controller, and these interfaces on it."""
    ports = {one["name"]: one for one in interfaces}
    mirror = Mirror()
    bridge = rows.bridge(names.bridge(VNI), *ports, controllers=("c",), tags=rows.OURS)
    told = {
        "Bridge": {"b": new(bridge)},
        "Port": {name: new(rows.port(name)) for name in ports},
        "Interface": {name: new(row) for name, row in ports.items()},
        "Controller": {"c": new(rows.controller(connected=connected))},
    }
    mirror.apply(told, None)
    faster = {name: dict(row) for name, row in ports.items() if row["statistics"][1]}
    for row in faster.values():
        told_now = dict(row["statistics"][1])
        row["statistics"] = rows.texts({key: count + 5000 for key, count in told_now.items()})
    mirror.apply(
        {"Interface": {n: new(row, statistics=rows.texts({})) for n, row in faster.items()}}, 100
    )
    return mirror


def tap(name: str, **columns: Any) -> dict[str, Any]:
    tags = {"ccf-slice": "demo", "ccf-vm": IDS[name]}
    return interface(names.tap(IDS[name]), received=1000, sent=200, tags=tags, **columns)


def tunnel(to: str, **columns: Any) -> dict[str, Any]:
    options = rows.texts({"remote_ip": to})
    return interface(names.tunnel(VNI, to), "vxlan", options=options, **columns)


class Switches:
    """Those that are heard, and nothing of the others."""

    def __init__(self, **mirrors: Mirror) -> None:
        self.mirrors = mirrors

    def problem(self, host: str) -> str | None:
        return None if host in self.mirrors else f"no answer from {host}"

    def bridge(self, host: str, name: str) -> WatchedBridge | None:
        return self.mirrors.get(host, Mirror()).bridge(name)

    def ports(self, host: str) -> Iterator[WatchedPort]:
        yield from self.mirrors.get(host, Mirror()).ports(101)

    def all_ports(self) -> Iterator[WatchedPort]:
        for host in self.mirrors:
            yield from self.ports(host)

    def heard(self) -> dict[str, bool]:
        return {host: host in self.mirrors for host in ("node", "h1", "h2")}


@pytest.fixture
def config() -> Settings:
    return lab_settings("sqlite+aiosqlite://")


def node(**columns: Any) -> Mirror:
    return switch(
        interface(names.inside_port(VNI)),
        interface(names.outside_port(VNI)),
        tunnel(H1_IP, **columns),
        tunnel("192.0.2.2"),
    )


def links(document: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    return [
        (link["to"].get("name") or link["to"].get("host"), link["state"])
        for link in document["links"]
        if link["kind"] == kind
    ]


def test_it_tells_bridges_ports_links_and_vms_with_what_goes_through(config: Settings) -> None:
    found = topology.describe(
        demo(vm("aa", "h1")), config, Switches(node=node(), h1=switch(tap("aa"), tunnel(NODE_IP)))
    )
    assert [(one["host"], one["heard"]) for one in found["switches"]] == [
        ("node", True),
        ("h1", True),
    ]
    assert [(one["host"], one["bridge"]) for one in found["bridges"]] == [
        ("node", "ccf-1001"),
        ("h1", "ccf-1001"),
    ]
    assert found["bridges"][1]["controllers"] == [
        {
            "target": "tcp:192.0.2.9:6633",
            "connected": True,
            "state": "ACTIVE",
            "error": None,
        }
    ]
    (port,) = [one for one in found["ports"] if one["vm"]]
    assert (port["kind"], port["state"], port["bridge"]) == ("vm", "up", "ccf-1001")
    assert port["receive"] == {
        "bytes": 6000,
        "packets": 5100,
        "drops": 5003,
        "bytes_per_second": 1000,
        "packets_per_second": 1000,
    }
    assert port["transmit"]["bytes"] == 5200
    kinds = {one["port"]: one["kind"] for one in found["ports"]}
    assert kinds[names.inside_port(VNI)] == "namespace"
    assert kinds[names.outside_port(VNI)] == "outside"
    assert links(found, "tunnel") == [("h1", "up")]
    assert links(found, "namespace") == [("node", "up")]
    assert links(found, "vm") == [("aa", "up")]
    assert len(links(found, "outside")) == 1


def test_a_host_that_is_not_heard_is_told_and_the_rest_is_there(config: Settings) -> None:
    found = topology.describe(
        demo(vm("aa", "h1"), vm("bb", "h2")),
        config,
        Switches(node=node(), h1=switch(tap("aa"), tunnel(NODE_IP))),
    )
    assert found["switches"][2] == {
        "host": "h2",
        "heard": False,
        "problem": "no answer from h2",
    }
    assert links(found, "vm") == [("aa", "up"), ("bb", "unknown")]
    assert links(found, "tunnel") == [("h1", "up"), ("h2", "unknown")]


def test_a_link_is_down_with_one_of_its_ends_or_without_it(config: Settings) -> None:
    down = node(status=rows.texts({"tunnel_egress_iface_carrier": "down"}))
    found = topology.describe(
        demo(vm("aa", "h1"), vm("bb", "h1")),
        config,
        Switches(node=down, h1=switch(tap("aa", ofport=-1), tunnel(NODE_IP))),
    )
    assert links(found, "vm") == [("aa", "down"), ("bb", "down")]
    assert links(found, "tunnel") == [("h1", "down")]


def test_where_there_should_be_nothing_no_link_is_missed(config: Settings) -> None:
    vms = (
        vm("aa", "h1", kind="controller"),
        vm("bb", "h1", state="failed"),
        vm("cc", None),
        vm("dd", "gone"),
    )
    found = topology.describe(demo(*vms), config, Switches(node=node(), h1=switch(tap("aa"))))
    assert links(found, "tunnel") == []
    assert links(found, "vm") == [("aa", "up"), ("dd", "unknown")]
    assert found["links"][-2]["from"]["bridge"] == "ccf-0"
    assert len(found["vms"]) == 4


def test_a_host_that_is_the_network_node_has_no_tunnel(config: Settings) -> None:
    host = config.host[0].model_copy(update={"tunnel_ip": NODE_IP})
    alone = config.model_copy(update={"host": (host,)})
    found = topology.describe(
        demo(vm("aa", "h1")),
        alone,
        Switches(node=switch(interface(names.inside_port(VNI)), tap("aa"))),
    )
    assert [one["host"] for one in found["switches"]] == ["node"]
    assert links(found, "vm") == [("aa", "up")]
    assert links(found, "tunnel") == []


def test_another_slices_bridge_of_that_name_is_not_shown(config: Settings) -> None:
    found = topology.describe({**demo(), "slice": "other"}, config, Switches(node=node()))
    assert (found["bridges"], found["ports"]) == ([], [])


def test_people_see_a_tree_with_rates(config: Settings) -> None:
    found = topology.describe(
        demo(vm("aa", "h1"), vm("bb", "h2")),
        config,
        Switches(node=node(), h1=switch(tap("aa"), tunnel(NODE_IP), connected=False)),
    )
    _, lines = (plain(block) for block in tree(found))
    said = "\n".join(lines)
    assert "h1: ccf-1001, tcp:192.0.2.9:6633 away" in said
    assert "h2: not heard, no answer from h2" in said
    (line,) = [line for line in lines if "aa 10.0.0.2 (running)" in line]
    assert line.startswith("└─ ")
    # Both ways a second, both in all; drops are those of both ways.
    cells = "up 1.00 kB/s 1.00 kB/s 6.00 kB 5.20 kB 10007"
    assert line.split()[4:] == cells.split()


def test_prometheus_has_counters_of_vms_while_their_ports_are_there(config: Settings) -> None:
    registry = CollectorRegistry()
    switches = Switches(h1=switch(tap("aa"), tap("bb", statistics=rows.texts({}))))
    registry.register(PortMetrics(switches))
    said = generate_latest(registry).decode()
    assert f'ccfd_port_receive_bytes_total{{slice="demo",vm="{IDS["aa"]}"}} 6000.0' in said
    assert f'ccfd_port_transmit_packets_total{{slice="demo",vm="{IDS["aa"]}"}} 5020.0' in said
    assert f'ccfd_port_transmit_drops_total{{slice="demo",vm="{IDS["aa"]}"}} 5004.0' in said
    assert IDS["bb"] not in said
    assert 'ccfd_switch_heard{host="h1"} 1.0' in said
    assert 'ccfd_switch_heard{host="h2"} 0.0' in said
    switches.mirrors.clear()
    assert IDS["aa"] not in generate_latest(registry).decode()


async def test_it_is_served_for_every_slice(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)
    application = web.Application(middlewares=[errors])
    monitor = Monitor(harness.settings)
    application.add_routes(topology.routes(harness.settings, harness.database, monitor))
    async with TestClient(TestServer(application)) as client:
        async with client.get("/v1/slices/demo/topology") as answer:
            assert answer.status == 200
            found = await answer.json()
        assert (found["slice"], found["switches"][0]["problem"]) == ("demo", "not asked yet")
        async with client.get("/v1/slices/nope/topology") as answer:
            assert answer.status == 404
