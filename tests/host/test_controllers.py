"""Slices whose switches do what an OpenFlow controller says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import traces
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_reconcile import ctl
from tests.host.test_recover import until_up
from tests.host.test_slices import guest
from tests.lab import Lab
from tests.lab.config import CONTROLLER_IMAGE
from tests.lab.layout import SERVICES
from tests.osken.environment import learning_switch

WITHIN = 120.0
"""Seconds for a guest to boot, or a change to be felt: a switch dials again after 8."""
PORT = 6653
FORGETS_AFTER = 2
"""Seconds without a packet after which the tenant's controller has a switch forget a flow."""


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
            self._process.wait(timeout=10)
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


async def test_a_controller_says_where_a_slices_traffic_goes(
    lab: Lab, ccfd: CcfdProcess, own: OwnController
) -> None:
    ctl(lab, "slice", "create", "demo", "--no-gateway", *two_vms())
    document = ccfd.get("/v1/slices/demo")
    await until_heard(lab, document, wish=True)
    await while_the_tenants_own_is_there(lab, ccfd, own, document)
    vm = await once_a_vm_of_ccfds_is_up(lab, ccfd, document)
    assert ccfd.get("/v1/reconcile")["repairs"] == []

    ctl(lab, "controller", "delete", vm)
    assert bridges(lab, document, "fail_mode") == {"standalone"}
    assert bridges(lab, document, "controller") == {"[]"}
    await until_heard(lab, document, wish=True)
    ctl(lab, "slice", "delete", "demo")
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}


async def while_the_tenants_own_is_there(
    lab: Lab, ccfd: CcfdProcess, own: OwnController, document: dict[str, Any]
) -> None:
    ctl(lab, "slice", "update", "demo", "--controller", f"{own.address}:{PORT}")
    assert ccfd.get("/v1/slices/demo")["controller"] == {"address": own.address, "port": PORT}
    assert bridges(lab, document, "fail_mode") == {"secure"}
    assert not await hears(lab, document), "nobody says what to do with it"
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


async def once_a_vm_of_ccfds_is_up(lab: Lab, ccfd: CcfdProcess, document: dict[str, Any]) -> str:
    """Have ccfd run a controller; return the id of its VM."""
    said = ctl(lab, "controller", "create", "demo", CONTROLLER_IMAGE, "--json")
    made = json.loads(said)["result"]
    assert (made["ipaddr"], made["port"]) == ("172.16.0.101", 6633)
    assert made["vm"]["kind"] == "controller"
    assert bridges(lab, document, "fail_mode") == {"secure"}
    vm: str = made["vm"]["vm"]
    shown = await guest(lab, vm, "ip -4 -o addr show eth0 | grep inet", WITHIN)
    assert " 172.16.0.101/16 " in shown
    await until_connected(ccfd, wish=True)
    await until_heard(lab, document, wish=True)
    ctl(lab, "vm", "suspend", vm)
    await until_connected(ccfd, wish=False)
    await until_heard(lab, document, wish=False)
    ctl(lab, "vm", "resume", vm)
    await until_connected(ccfd, wish=True)
    await until_heard(lab, document, wish=True)
    return vm


def test_our_own_addresses_are_no_controllers(lab: Lab, ccfd: CcfdProcess) -> None:
    ctl(lab, "slice", "create", "plain", "--no-gateway")
    for address in ("127.0.0.1", lab.layout.management("h1"), lab.layout.tunnel("node")):
        with pytest.raises(AssertionError, match=r"invalid_(message|state)"):
            ctl(lab, "slice", "update", "plain", "--controller", address)
    ctl(lab, "slice", "delete", "plain")
