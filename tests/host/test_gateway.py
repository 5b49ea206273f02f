"""A slice's way out by real packets: what passes, what does not, and what comes back."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from ccfd.model import names
from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.host.test_reconcile import settles, until_repaired
from tests.host.test_slices import guest, vms
from tests.lab import Lab
from tests.lab.layout import NODE, OUTSIDE, OUTSIDE_ADDRESS
from tests.portal import Body, Portal

QUICK = {"CCFD_RECONCILE__EVERY": "1", "CCFD_RECONCILE__GRACE": "6"}
FETCH = f"timeout 5 wget -qO- http://{OUTSIDE_ADDRESS}/"
FETCH_MUCH = f"timeout 60 wget -qO- http://{OUTSIDE_ADDRESS}/big | wc -c"
BIG = 14 * 1024 * 1024


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("gateway") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab, QUICK) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


async def create(portal: Portal, name: str) -> Body:
    made = await portal.ask("slice.create", slice=name, vms=vms("a"))
    assert made["outcome"] == "succeeded", made
    document: Body = made["result"]
    return document


def reaches(lab: Lab, place: list[str], address: str, port: int) -> bool:
    """Tell whether somebody answers a TCP connection from the outside, be it by a reset."""
    attempt = ["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    return subprocess.run([*place, *attempt], capture_output=True, check=False).returncode != 124


async def are_silent(lab: Lab, vm: str, *addresses: str) -> None:
    """See that a VM gets no answer from addresses, by ping and by TCP (a reset is an answer)."""
    asked = " ".join(
        f"(ping -c 1 -W 2 {one} >/dev/null && echo answers: {one})&"
        f" (timeout 3 wget -qO- http://{one}/ 2>&1)&"
        for one in addresses
    )
    said = await guest(lab, vm, f"{asked} wait")
    assert "answers" not in said
    assert "refused" not in said


def dropped(lab: Lab, vni: int) -> int:
    """Count the packets that the firewall of a slice has dropped on their way to what is closed."""
    table = ["nft", "-j", "list", "chain", "inet", "ccf-gateway", "forwarded"]
    printed = lab.run(NODE, ["ip", "netns", "exec", names.namespace(vni), *table]).stdout
    rules = [one["rule"]["expr"] for one in json.loads(printed)["nftables"] if "rule" in one]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


async def test_vms_get_out_and_nobody_gets_in(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    one, two = [await create(portal, name) for name in ("one", "two")]
    assert one == ccfd.get("/v1/slices/one")
    assert one["gateway"] == {"inside": "10.0.0.1", "outside": "203.0.113.10"}
    assert two["gateway"] == {"inside": "10.0.0.65", "outside": "203.0.113.11"}
    a, b = one["vms"][0], two["vms"][0]
    for vm, document in ((a, one), (b, two)):
        assert (await guest(lab, vm["vm"], FETCH)).strip() == "outside"
        await guest(lab, vm["vm"], f"ping -c 1 -W 2 {document['gateway']['inside']}")
    log = (lab.layout.home(OUTSIDE) / "log").read_text()
    assert "203.0.113.10 - " in log
    assert "203.0.113.11 - " in log
    assert a["ip"] not in log, "addresses are translated"

    outside = lab.exec_argv(OUTSIDE, [])
    via = f"{one['cidr']} via {one['gateway']['outside']}"
    lab.run(OUTSIDE, ["ip", "route", "add", *via.split()])
    assert not reaches(lab, outside, a["ip"], 80), "not even by somebody on the outer network"
    for port in (22, 53, 80, 6640):
        assert not reaches(lab, outside, one["gateway"]["outside"], port)

    closed = (
        b["ip"],
        two["gateway"]["inside"],
        "172.16.0.101",
        lab.layout.management(NODE),
        lab.layout.management("h1"),
        lab.layout.tunnel(NODE),
        lab.layout.tunnel("h1"),
    )
    before = dropped(lab, one["vni"])
    await are_silent(lab, a["vm"], *closed, two["gateway"]["outside"])
    assert dropped(lab, one["vni"]) >= before + 2 * len(closed)


async def test_the_firewall_is_replaced_under_traffic_and_what_is_lost_comes_back(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    document = ccfd.get("/v1/slices/one")
    vm, vni = document["vms"][0]["vm"], document["vni"]
    inside = ["ip", "netns", "exec", names.namespace(vni)]
    await settles(ccfd)
    rule = [*inside, "nft", "add", "rule", "inet", "ccf-gateway", "input", "accept"]
    async with asyncio.TaskGroup() as group:
        much = group.create_task(guest(lab, vm, FETCH_MUCH))
        lab.run(NODE, rule)
        await until_repaired(portal, ("gateway", "node"))
    assert int(much.result()) == BIG
    listed = lab.run(NODE, [*inside, "nft", "list", "chain", "inet", "ccf-gateway", "input"]).stdout
    assert listed.count("accept") == 4, listed

    for loss in (
        [*inside, "nft", "flush", "ruleset"],
        ["ovs-vsctl", "del-port", "br-ext", names.outside_port(vni)],
        ["ip", "netns", "delete", names.namespace(vni)],
    ):
        lab.run(NODE, loss)
        await until_repaired(portal, ("gateway", "node"))
        await settles(ccfd)
        assert (await guest(lab, vm, FETCH, within=20)).strip() == "outside", loss


async def test_nothing_is_left_of_a_gateway(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    for name in ("one", "two"):
        assert (await portal.ask("slice.delete", slice=name))["outcome"] == "succeeded"
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}
    ports = lab.run(NODE, ["ovs-vsctl", "list-ports", "br-ext"]).stdout.split()
    assert ports == ["ext0"]
