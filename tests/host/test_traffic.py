"""Who reaches whom, by real packets: two slices of one shape, their gateways, and the outside."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import NamedTuple

import pytest

from ccfd.model import names
from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.host.test_reconcile import settles, until_repaired
from tests.host.test_slices import guest, hold_their_leases, vms
from tests.lab import Lab
from tests.lab.layout import NODE, OUTSIDE, OUTSIDE_ADDRESS
from tests.portal import Body, Portal

pytestmark = pytest.mark.timeout(400)

QUICK = {"CCFD_RECONCILE__EVERY": "1", "CCFD_RECONCILE__GRACE": "6"}
FETCH = f"timeout 5 wget -qO- http://{OUTSIDE_ADDRESS}/"
FETCH_MUCH = f"timeout 120 wget -qO- http://{OUTSIDE_ADDRESS}/big | wc -c"
BIG = 14 * 1024 * 1024
BEYOND = "198.51.100.7"
"""An address further away than the outer network."""
CONTROL = "172.16.0.101"
ROUNDS = 20


class Cell(NamedTuple):
    """Somebody asks an address by ping and by TCP; `passes` is what may be answered of these."""

    asker: str
    to: str
    address: str
    passes: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("traffic") / "lab", hosts=2)
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


async def create(portal: Portal, name: str, *hosts: str) -> Body:
    """Make a slice with a VM on each of *hosts*."""
    wanted = [
        {**vm, "host": host} for vm, host in zip(vms(*"abc"[: len(hosts)]), hosts, strict=True)
    ]
    made = await portal.ask("slice.create", slice=name, vms=wanted)
    assert made["outcome"] == "succeeded", made
    document: Body = made["result"]
    return document


def asked(lab: Lab, asker: Body, mine: Body, other: Body) -> Iterator[Cell]:
    """Say all that one VM asks."""

    def cell(to: str, address: str, passes: str) -> Cell:
        return Cell(f"{mine['slice']}/{asker['name']}", to, address, passes)

    for vm in mine["vms"]:
        if vm is not asker:
            where = "same" if vm["host"] == asker["host"] else "other"
            yield cell(f"VM, {where} host", vm["ip"], "ping tcp")
    yield cell("its gateway", mine["gateway"]["inside"], "ping")
    yield cell("outside", OUTSIDE_ADDRESS, "ping tcp")
    yield cell("beyond", BEYOND, "ping tcp")
    for vm in other["vms"]:
        yield cell("slice's VM", vm["ip"], "")
    yield cell("slice's gateway", other["gateway"]["inside"], "")
    yield cell("slice's way out", other["gateway"]["outside"], "")
    yield cell("control network", CONTROL, "")
    for place in (NODE, "h1", "h2"):
        yield cell("hosts", lab.layout.management(place), "")
        yield cell("hosts", lab.layout.tunnel(place), "")


def probe(cells: Iterable[Cell], connect: str) -> str:
    """Write a shell line that names each address that answers, and by what; a reset is an answer.

    *connect* tries a TCP connection, and says so where it is refused.
    """
    tries = " ".join(
        f"(ping -c 1 -W 2 {one} >/dev/null 2>&1 && echo {one} ping) &"
        f" (said=$({connect.format(one)} 2>&1) || case $said in *refused*) ;; *) exit ;; esac;"
        f" echo {one} tcp) &"
        for one in dict.fromkeys(cell.address for cell in cells)
    )
    return f"{tries} wait"


def answers(cells: Iterable[Cell], said: str) -> set[tuple[Cell, str]]:
    """Read what a probe has printed."""
    lines = {tuple(line.split()) for line in said.splitlines()}
    return {
        (cell, how) for cell in cells for how in ("ping", "tcp") if (cell.address, how) in lines
    }


def wanted(cells: Iterable[Cell]) -> set[tuple[Cell, str]]:
    return {(cell, how) for cell in cells for how in cell.passes.split()}


async def ask(lab: Lab, vm: Body, cells: list[Cell]) -> set[tuple[Cell, str]]:
    """Ask, and on a busy machine once more what should have passed; return all answers."""
    heard: set[tuple[Cell, str]] = set()
    left = cells
    for _ in range(ROUNDS):
        line = probe(left, "timeout 3 wget -qO- http://{}/")
        heard |= answers(left, await guest(lab, vm["vm"], line))
        missing = wanted(left) - heard
        if not missing:
            break
        left = [cell for cell in left if any(cell is one for one, _ in missing)]
    return heard


def table(cells: list[Cell], heard: set[tuple[Cell, str]]) -> str:
    """Draw who was answered by whom; `!` marks what should be otherwise."""
    columns, rows = dict.fromkeys(one.to for one in cells), dict.fromkeys(c.asker for c in cells)

    def shown(asker: str, to: str) -> str:
        here = [one for one in cells if (one.asker, one.to) == (asker, to)]
        if not here:
            return ""
        ways = {how for cell, how in heard if cell in here}
        wrong = any((cell, how) in heard ^ wanted(here) for cell in here for how in ("ping", "tcp"))
        return ("+".join(sorted(ways)) or "-") + ("!" if wrong else "")

    lines = [
        ["from \\ to", *columns],
        *([row, *(shown(row, to) for to in columns)] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def tunnels(lab: Lab, vni: int) -> dict[str, set[str]]:
    """Name the places that have the slice's bridge, each with those that it has a tunnel to."""
    towards = {names.tunnel(vni, lab.layout.tunnel(at)): at for at in lab.layout.switched}
    found = {}
    for place in lab.layout.switched:
        if names.bridge(vni) in lab.run(place, ["ovs-vsctl", "list-br"]).stdout.split():
            listed = lab.run(place, ["ovs-vsctl", "list-ports", names.bridge(vni)]).stdout.split()
            found[place] = {towards[name] for name in listed if name in towards}
    return found


def dropped(lab: Lab, vni: int) -> int:
    """Count the packets that the firewall of a slice has dropped on their way to what is closed."""
    listing = ["nft", "-j", "list", "chain", "inet", "ccf-gateway", "forwarded"]
    printed = lab.run(NODE, ["ip", "netns", "exec", names.namespace(vni), *listing]).stdout
    rules = [one["rule"]["expr"] for one in json.loads(printed)["nftables"] if "rule" in one]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


def listen(lab: Lab, vm: Body) -> subprocess.Popen[str]:
    """Hear all that comes to a VM."""
    argv = ["tcpdump", "-l", "-n", "-e", "-i", names.tap(vm["vm"])]
    return subprocess.Popen(
        lab.exec_argv(vm["host"], argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def stop(listener: subprocess.Popen[str]) -> str:
    listener.terminate()
    printed, _ = listener.communicate(timeout=60)
    return printed


async def test_the_matrix_of_who_reaches_whom(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    one = await create(portal, "one", "h1", "h2", "h1")
    two = await create(portal, "two", "h1")
    assert tunnels(lab, two["vni"]) == {NODE: {"h1"}, "h1": {NODE}}
    grown = await portal.ask("vm.create", slice="two", host="h2", **vms("b")[0])
    assert grown["outcome"] == "succeeded", grown
    two = ccfd.get("/v1/slices/two")
    assert tunnels(lab, two["vni"]) == {NODE: {"h1", "h2"}, "h1": {NODE}, "h2": {NODE}}
    assert one == ccfd.get("/v1/slices/one")
    assert one["gateway"] == {"inside": "10.0.0.1", "outside": "203.0.113.10"}
    assert two["gateway"] == {"inside": "10.0.0.65", "outside": "203.0.113.11"}
    for slice_ in (one, two):
        await hold_their_leases(lab, slice_)
    askers = [(vm, mine, other) for mine, other in ((one, two), (two, one)) for vm in mine["vms"]]
    each = [[*asked(lab, *asker)] for asker in askers]
    cells = [cell for some in each for cell in some]

    # Whatever gateways should keep in is answered by the outside where they let it pass.
    kept_in = {cell.address for cell in cells if not cell.passes} - {
        slice_["gateway"]["outside"] for slice_ in (one, two)
    }
    lures = [f"{address}/32" for address in (BEYOND, *kept_in)]
    for lure in lures:
        lab.run(OUTSIDE, ["ip", "address", "add", lure, "dev", "lo"])
    before = {slice_["vni"]: dropped(lab, slice_["vni"]) for slice_ in (one, two)}
    listeners = [listen(lab, vm) for vm in two["vms"]]
    try:
        # A broadcast and an unknown neighbour are flooded to wherever the slice reaches.
        flood = "arping -c 2 -I eth0 10.0.0.62 >/dev/null 2>&1; true"
        await guest(lab, one["vms"][0]["vm"], flood)
        heard = set[tuple[Cell, str]]().union(
            *await asyncio.gather(
                *(ask(lab, vm, some) for (vm, _, _), some in zip(askers, each, strict=True))
            )
        )
    finally:
        overheard = "\n".join(map(stop, listeners))
        for lure in lures:
            lab.run(OUTSIDE, ["ip", "address", "delete", lure, "dev", "lo"])

    for slice_ in (one, two):
        via = f"{slice_['cidr']} via {slice_['gateway']['outside']}"
        lab.run(OUTSIDE, ["ip", "route", "add", *via.split()])
    unasked = [
        Cell("outside", f"{to} of {slice_['slice']}", address, "")
        for slice_ in (one, two)
        for to, address in (
            *(("VMs", vm["ip"]) for vm in slice_["vms"]),
            ("gateway", slice_["gateway"]["outside"]),
            ("gateway", slice_["gateway"]["inside"]),
        )
    ]
    # Not even by somebody on the outer network who knows the way.
    line = probe(unasked, "timeout 3 bash -c 'exec 3<>/dev/tcp/{}/80'")
    from_outside = answers(unasked, lab.run(OUTSIDE, ["sh", "-c", line]).stdout)

    print(drawn := f"{table(cells, heard)}\n\n{table(unasked, from_outside)}")
    assert heard == wanted(cells), drawn
    assert not from_outside, drawn

    assert two["vms"][0]["mac"] in overheard, "the listeners hear their own slice"
    for vm in one["vms"]:
        assert vm["mac"] not in overheard
    log = (lab.layout.home(OUTSIDE) / "log").read_text()
    for slice_ in (one, two):
        assert f"{slice_['gateway']['outside']} - " in log
        assert not [vm for vm in slice_["vms"] if f"{vm['ip']} - " in log], (
            "addresses are translated"
        )
        assert dropped(lab, slice_["vni"]) > before[slice_["vni"]]


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
        assert (await guest(lab, vm, FETCH)).strip() == "outside", loss


async def test_a_hosts_tunnel_goes_with_its_last_vm_of_the_slice(
    lab: Lab, ccfd: CcfdProcess, portal: Portal
) -> None:
    one, two = (ccfd.get(f"/v1/slices/{name}") for name in ("one", "two"))
    both = {NODE: {"h1", "h2"}, "h1": {NODE}, "h2": {NODE}}
    assert tunnels(lab, one["vni"]) == both
    (last,) = [vm["vm"] for vm in one["vms"] if vm["host"] == "h2"]
    assert (await portal.ask("vm.delete", vm=last))["outcome"] == "succeeded"
    assert tunnels(lab, one["vni"]) == {NODE: {"h1"}, "h1": {NODE}}
    assert tunnels(lab, two["vni"]) == both


async def test_nothing_is_left_of_a_gateway(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    for name in ("one", "two"):
        assert (await portal.ask("slice.delete", slice=name))["outcome"] == "succeeded"
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}
    ports = lab.run(NODE, ["ovs-vsctl", "list-ports", "br-ext"]).stdout.split()
    assert ports == ["ext0"]
