"""A slice's gateway on a real Open vSwitch, a Linux bridge and a plain link, by real packets."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Gateway, Namespace, Port
from ccfd.network import Fabric, Gateways, Namespaces
from ccfd.network.gateway_plan import mark
from ccfd.settings import Settings
from tests.host.switch import (
    VNI,
    Guest,
    Switch,
    bridge,
    link,
    sh,
)

ROUTER = "203.0.113.254"
OUTSIDE = "203.0.113.10"
SPACE = "internet"
CLOSED = "192.0.2.77"
NAMESPACE = Namespace(
    slice="demo", vni=VNI, address="10.0.0.1/24", mac="02:e9:0a:00:00:01", mtu=1450
)
GATEWAY = Gateway(
    slice="demo",
    vni=VNI,
    inside="10.0.0.1/24",
    outside=f"{OUTSIDE}/24",
    mac=names.mac(OUTSIDE, VNI),
    router=ROUTER,
    closed=("10.0.0.0/8", f"{CLOSED}/32"),
)
IN = ("ip", "netns", "exec", names.namespace(VNI))


def answers(space: str, address: str, port: int) -> bool:
    """Tell whether a TCP connection is accepted within a second."""
    attempt = f"exec 3<>/dev/tcp/{address}/{port}"
    argv = ["ip", "netns", "exec", space, "timeout", "1", "bash", "-c", attempt]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def comes_to_answer(space: str, address: str, port: int) -> bool:
    """Tell whether a TCP connection is accepted at last: neighbours must find each other first."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if answers(space, address, port):
            return True
    return False


def serve(space: str, port: int) -> subprocess.Popen[bytes]:
    """Accept TCP connections in a namespace."""
    code = (
        "import socket,time\n"
        f"s=socket.create_server(('',{port}))\n"
        "print(flush=True)\n"
        "held=[]\n"
        "while True: held.append(s.accept())\n"
    )
    argv = ["ip", "netns", "exec", space, "python3", "-c", code]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as told:
        told.readline()
    return process


@pytest.fixture(params=["br-ext", "br-lin", "ext0"])
def way_out(request: pytest.FixtureRequest, switch: Switch, settings: Settings) -> Iterator[str]:
    """Make the external interface, with somebody behind it that stands for the internet."""
    sh("ip", "netns", "add", SPACE)
    sh("ip", "link", "add", "ext0", "type", "veth", "peer", "name", "eth0", "netns", SPACE)
    sh("ip", "netns", "exec", SPACE, "ethtool", "-K", "eth0", "tx", "off")
    for address in (f"{ROUTER}/24", f"{CLOSED}/32"):
        sh("ip", "-n", SPACE, "address", "add", address, "dev", "eth0")
    sh("ip", "-n", SPACE, "link", "set", "eth0", "up")
    sh("ip", "link", "set", "ext0", "up")
    # Somebody on the outer network that knows who to ask for the slice's addresses.
    sh("ip", "-n", SPACE, "route", "add", "10.0.0.0/24", "via", OUTSIDE)
    if request.param == "br-ext":
        switch.vsctl("add-br", "br-ext", "--", "set", "bridge", "br-ext", "datapath_type=netdev")
        switch.vsctl("add-port", "br-ext", "ext0")
        sh("ip", "link", "set", "br-ext", "up")
    elif request.param == "br-lin":
        sh("ip", "link", "add", "br-lin", "type", "bridge")
        sh("ip", "link", "set", "ext0", "master", "br-lin")
        sh("ip", "link", "set", "br-lin", "up")
    servers = [serve(SPACE, 80)]
    yield request.param
    for server in servers:
        server.kill()
        server.wait()
    if request.param == "br-lin":
        sh("ip", "link", "delete", "br-lin")
    sh("ip", "link", "delete", "ext0")
    sh("ip", "netns", "delete", SPACE)


async def test_a_gateway_lets_out_and_nobody_in_and_comes_back(
    way_out: str, switch: Switch, settings: Settings, fabric: Fabric
) -> None:
    node = settings.network_node.model_copy(update={"external_interface": way_out})
    gateways = Gateways(settings.model_copy(update={"network_node": node}), fabric)
    namespaces = Namespaces(settings)
    with pytest.raises(Refused, match="open it first"):
        await gateways.open(GATEWAY)
    guest = Guest(10)
    await namespaces.open(NAMESPACE)
    await fabric.make(bridge(Port(name=names.inside_port(VNI), kind="system"), link(10)))
    guest.start()
    sh("ip", "-n", guest.space, "route", "add", "default", "via", "10.0.0.1")
    inner = serve(guest.space, 80)
    try:
        for _ in range(2):
            await gateways.open(GATEWAY)
        assert await gateways.seen([VNI]) == {VNI: mark(GATEWAY)}
        assert guest.reaches("10.0.0.1")
        assert comes_to_answer(guest.space, ROUTER, 80)
        assert not answers(SPACE, "10.0.0.10", 80)
        assert not answers(SPACE, OUTSIDE, 80)
        assert not answers(guest.space, CLOSED, 80)
        assert dropped() > 0

        for loss in (
            (*IN, "nft", "flush", "ruleset"),
            (*IN, "nft", "add", "rule", "inet", "ccf-gateway", "input", "accept"),
            (*IN, "ip", "route", "delete", "default"),
            (*IN, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0"),
            (*IN, "ip", "link", "delete", "outside"),
        ):
            sh(*loss)
            assert await gateways.seen([VNI]) == {VNI: ""}, loss
            await gateways.open(GATEWAY)
            assert await gateways.seen([VNI]) == {VNI: mark(GATEWAY)}, loss
            assert comes_to_answer(guest.space, ROUTER, 80), loss

        other = replace(GATEWAY, closed=(*GATEWAY.closed, f"{ROUTER}/32"))
        await gateways.open(other)
        assert not answers(guest.space, ROUTER, 80)
        assert await gateways.seen([VNI]) == {VNI: mark(other)}

        await gateways.close(replace(GATEWAY, slice="somebody-else"))
        assert await gateways.seen([VNI]) != {}
        for _ in range(2):
            await gateways.close(GATEWAY)
            assert await gateways.seen([VNI]) == {}
        assert "outside" not in sh("ip", "-n", names.namespace(VNI), "link")
        assert sh(*IN, "nft", "list", "tables") == ""
        assert names.outside_port(VNI) not in sh("ip", "link")
        if way_out == "br-ext":
            assert switch.vsctl("list-ports", "br-ext") == "ext0"
    finally:
        inner.kill()
        inner.wait()
        guest.stop()
        await gateways.close(GATEWAY)
        await namespaces.close(NAMESPACE)


def dropped() -> int:
    """Count the packets that were on their way to what is closed."""
    table = ("nft", "-j", "list", "chain", "inet", "ccf-gateway", "forwarded")
    rules = [
        one["rule"]["expr"] for one in json.loads(sh(*IN, *table))["nftables"] if "rule" in one
    ]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


async def test_without_its_interface_a_gateway_is_refused(
    settings: Settings, fabric: Fabric
) -> None:
    node = settings.network_node.model_copy(update={"external_interface": "nowhere"})
    gateways = Gateways(settings.model_copy(update={"network_node": node}), fabric)
    namespaces = Namespaces(settings)
    await namespaces.open(NAMESPACE)
    try:
        with pytest.raises(Refused, match="there is no nowhere"):
            await gateways.open(GATEWAY)
    finally:
        await gateways.close(GATEWAY)
        await namespaces.close(NAMESPACE)
