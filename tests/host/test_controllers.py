"""Slices whose switches do what an OpenFlow controller says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ccfd.model import names
from ccfd.network.bridges import hardware_address
from tests import traces
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_reconcile import ctl
from tests.host.test_recover import until_up
from tests.host.test_slices import guest
from tests.host.test_traffic import Cell, answers, listen, probe, stop
from tests.lab import Lab
from tests.lab.config import CONTROLLER_IMAGE
from tests.lab.layout import NODE, OUTSIDE, OUTSIDE_ADDRESS, SERVICES
from tests.osken.environment import learning_switch

pytestmark = pytest.mark.timeout(400)

WITHIN = 120.0
"""Seconds for a guest to boot, or a change to be felt: a switch dials again after 8."""
PORT = 6653
FORGETS_AFTER = 2
"""Seconds without a packet after which the tenant's controller has a switch forget a flow."""
CONTROLLER = "172.16.0.101"
SWITCHES = {NODE: "172.16.255.254", "h1": "172.16.255.253", "h2": "172.16.255.252"}
"""The addresses of the switches on the control network."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("controllers") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    alone = {**sqlite(lab.layout.dir / "node"), "CCFD_BROKER__URL": ""}
    with CcfdProcess(lab, alone) as process:
        until_up(process, "h1", "h2")
        yield process


class OwnController:
    """A controller of the tenant's own, on a machine that is none of ccfd's."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"172.30.{lab.layout.subnet}.210"
        place = f"{self.address}/24"
        lab.run(SERVICES, ["ip", "address", "add", place, "dev", "mgt0"])

    def start(self) -> None:
        words = learning_switch(self.address, PORT, FORGETS_AFTER)
        self._process = subprocess.Popen(self._lab.exec_argv(SERVICES, words))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=60)
            self._process = None


@pytest.fixture
def own(lab: Lab) -> Iterator[OwnController]:
    controller = OwnController(lab)
    yield controller
    controller.kill()


def two_vms(image: str = "tiny") -> list[str]:
    hosts = (("a", "h1"), ("b", "h2"))
    return [
        word
        for name, host in hosts
        for word in ("--vm", f"name={name},image={image},flavor=tiny,host={host}")
    ]


def bridges(lab: Lab, document: dict[str, Any], column: str) -> set[str]:
    """Return what a column of the slice's bridges says, everywhere."""
    name = f"ccf-{document['vni']}"
    argv = ["ovs-vsctl", "get", "bridge", name, column]
    return {lab.run(place, argv).stdout.strip() for place in ("h1", "h2", "node")}


async def until_connected(ccfd: CcfdProcess, *, wish: bool) -> None:
    """Wait until the document says whether every bridge of the slice has its controller."""
    end = time.monotonic() + WITHIN
    while ccfd.get("/v1/slices/demo")["controller_connected"] is not wish:
        assert time.monotonic() < end, f"connected is still {not wish}"
        await asyncio.sleep(0.5)


async def hears(lab: Lab, document: dict[str, Any]) -> bool:
    """Tell whether one VM reaches the other, on another host."""
    one, other = document["vms"]
    line = f"ping -c 1 -W 2 {other['ip']} >/dev/null && echo heard || echo silence"
    return "heard" in await guest(lab, one["vm"], line, WITHIN)


async def until_heard(lab: Lab, document: dict[str, Any], *, wish: bool) -> None:
    end = time.monotonic() + WITHIN
    while await hears(lab, document) is not wish:
        assert time.monotonic() < end, f"heard is still {not wish}"
        # What is asked too often keeps its flow alive.
        await asyncio.sleep(0.5 if wish else 2 * FORGETS_AFTER)


async def test_a_tenants_own_controller_says_where_a_slices_traffic_goes(
    lab: Lab, ccfd: CcfdProcess, own: OwnController
) -> None:
    ctl(lab, "slice", "create", "demo", *two_vms())
    document = ccfd.get("/v1/slices/demo")
    await until_heard(lab, document, wish=True)
    ctl(lab, "slice", "update", "demo", "--controller", f"{own.address}:{PORT}")
    assert ccfd.get("/v1/slices/demo")["controller"] == {"address": own.address, "port": PORT}
    assert bridges(lab, document, "fail_mode") == {"secure"}
    # Nobody says what to do with it; a switch goes on for a moment with what it has cached.
    await until_heard(lab, document, wish=False)
    own.start()
    await until_connected(ccfd, wish=True)
    await until_heard(lab, document, wish=True)
    own.kill()
    await until_connected(ccfd, wish=False)
    await until_heard(lab, document, wish=False)
    own.start()
    await until_heard(lab, document, wish=True)
    ctl(lab, "slice", "update", "demo", "--no-controller")
    assert bridges(lab, document, "fail_mode") == {"standalone"}
    await until_heard(lab, document, wish=True)


async def test_a_controller_of_ccfds_says_where_a_slices_traffic_goes(
    lab: Lab, ccfd: CcfdProcess
) -> None:
    document = ccfd.get("/v1/slices/demo")
    said = ctl(lab, "controller", "create", "demo", CONTROLLER_IMAGE, "--json")
    made = json.loads(said)["result"]
    assert (made["ipaddr"], made["port"]) == (CONTROLLER, 6633)
    assert made["vm"]["kind"] == "controller"
    assert bridges(lab, document, "fail_mode") == {"secure"}
    vm: str = made["vm"]["vm"]
    shown = await guest(lab, vm, "ip -4 -o addr show eth0 | grep inet", WITHIN)
    assert f" {CONTROLLER}/16 " in shown
    await until_connected(ccfd, wish=True)
    await until_heard(lab, document, wish=True)
    ctl(lab, "vm", "suspend", vm)
    await until_connected(ccfd, wish=False)
    await until_heard(lab, document, wish=False)
    ctl(lab, "vm", "resume", vm)
    await until_connected(ccfd, wish=True)
    await until_heard(lab, document, wish=True)
    assert ccfd.get("/v1/reconcile")["repairs"] == []


async def test_the_slice_and_the_control_network_reach_nothing_of_each_other(
    lab: Lab, ccfd: CcfdProcess
) -> None:
    """They try by the gateway, and as if they were each other's neighbours."""
    document = ccfd.get("/v1/slices/demo")
    (controller,) = [one for one in document["vms"] if one["kind"] == "controller"]
    others = [one for one in document["vms"] if one is not controller]
    closed = [
        Cell("VMs", to, address, "")
        for to, address in {"controller": CONTROLLER, **SWITCHES}.items()
    ]
    elsewhere = [
        *(Cell("controller", "VMs", one["ip"], "") for one in others),
        *(Cell("controller", "gateway", one, "") for one in document["gateway"].values()),
        Cell("controller", "outside", OUTSIDE_ADDRESS, ""),
    ]
    lures = [f"{cell.address}/32" for cell in closed]
    macs = {CONTROLLER: controller["mac"]} | {
        address: hardware_address(names.CONTROL_VNI, place) for place, address in SWITCHES.items()
    }
    neighbours = "; ".join(f"arp -s {address} {mac}" for address, mac in macs.items())
    ways = (
        # By the gateway: what it lets pass would be answered outside.
        "true",
        "ip route add 172.16.0.0/16 dev eth0",
        f"{neighbours}; ip address add 172.16.0.77/16 dev eth0",
    )

    async def tried(asker: str, cells: list[Cell], *ways: str) -> set[tuple[Cell, str]]:
        heard: set[tuple[Cell, str]] = set()
        for way in ways:
            await guest(lab, asker, f"{way}; true")
            said = await guest(lab, asker, probe(cells, "timeout 3 wget -qO- http://{}/"))
            heard |= answers(cells, said)
        return heard

    # The other ends of the control network are answered, by whatever is asked here.
    line = probe(closed[:1], "timeout 3 bash -c 'exec 3<>/dev/tcp/{}/80'")
    for place in SWITCHES:
        end, ways_there = time.monotonic() + WITHIN, set[str]()
        while ways_there != {"ping", "tcp"}:
            said = await asyncio.to_thread(lab.run, place, ["sh", "-c", line])
            ways_there |= {how for _, how in answers(closed, said.stdout)}
            assert time.monotonic() < end, (place, ways_there)
    for lure in lures:
        lab.run(OUTSIDE, ["ip", "address", "add", lure, "dev", "lo"])
    listener = listen(lab, controller)
    try:
        heard = await asyncio.gather(
            *(tried(one["vm"], closed, *ways) for one in others),
            tried(controller["vm"], elsewhere, "ip route add default dev eth0"),
        )
    finally:
        overheard = stop(listener)
        for lure in lures:
            lab.run(OUTSIDE, ["ip", "address", "delete", lure, "dev", "lo"])
    assert not set[tuple[Cell, str]]().union(*heard)
    assert controller["mac"] in overheard
    for one in others:
        assert one["mac"] not in overheard
        undo = "ip address delete 172.16.0.77/16 dev eth0; ip route delete 172.16.0.0/16"
        await guest(lab, one["vm"], f"{undo}; true")


async def test_without_its_controller_a_slice_forwards_by_itself(
    lab: Lab, ccfd: CcfdProcess
) -> None:
    document = ccfd.get("/v1/slices/demo")
    ctl(lab, "controller", "delete", document["controller"]["vm"])
    assert bridges(lab, document, "fail_mode") == {"standalone"}
    assert bridges(lab, document, "controller") == {"[]"}
    await until_heard(lab, ccfd.get("/v1/slices/demo"), wish=True)
    ctl(lab, "slice", "delete", "demo")
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}


def test_our_own_addresses_are_no_controllers(lab: Lab, ccfd: CcfdProcess) -> None:
    ctl(lab, "slice", "create", "plain", "--no-gateway")
    for address in ("127.0.0.1", lab.layout.management("h1"), lab.layout.tunnel("node")):
        with pytest.raises(AssertionError, match=r"invalid_(message|state)"):
            ctl(lab, "slice", "update", "plain", "--controller", address)
    ctl(lab, "slice", "delete", "plain")
