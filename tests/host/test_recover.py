"""A database that is lost is made again from what hosts hold, and life goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import traces
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_reconcile import ctl
from tests.host.test_slices import hold_their_leases, reach_each_other
from tests.lab import Lab
from tests.lab.shell import wait_until

SHOWN = ("slices", "vms", "subnets", "networks", "hosts")
NOTHING: dict[str, Any] = {
    "repairs": [],
    "states": [],
    "unfinished": [],
    "lost": [],
    "flows": [],
    "unseen": {},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("recover") / "lab", hosts=2)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    alone = {**sqlite(database(lab).parent), "CCFD_BROKER__URL": "", "CCFD_RECONCILE__EVERY": "0"}
    with CcfdProcess(lab, alone) as process:
        yield process


def database(lab: Lab) -> Path:
    return lab.layout.dir / "node" / "ccfd.db"


def shown(ccfd: CcfdProcess) -> dict[str, Any]:
    return {what: ccfd.get(f"/v1/{what}") for what in SHOWN}


def lose_the_database(lab: Lab, ccfd: CcfdProcess) -> None:
    assert ccfd.stop() == 0
    for path in database(lab).parent.glob(database(lab).name + "*"):
        path.unlink()
    ccfd.start()
    assert ccfd.get("/v1/slices")["items"] == []


def until_up(ccfd: CcfdProcess, *hosts: str) -> None:
    end = time.monotonic() + 120
    while {one["host"] for one in ccfd.get("/v1/hosts")["items"] if one["state"] == "up"} != {
        *hosts
    }:
        assert time.monotonic() < end
        time.sleep(0.1)


async def test_a_lost_database_is_made_again(lab: Lab, ccfd: CcfdProcess, tmp_path: Path) -> None:
    until_up(ccfd, "h1", "h2")
    key = tmp_path / "id.pub"
    key.write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me\n"
    )
    told = ["--description", 'it\'s "his" & hers: <é>', "--project", "p", "--ssh-key", str(key)]
    two = [word for name in "ab" for word in ("--vm", f"name={name},image=tiny,flavor=tiny")]
    ctl(lab, "slice", "create", "left", "--no-gateway", *told, *two)
    small = "name=c,image=tiny,cpu=1,ram=96,disk=2"
    ctl(lab, "slice", "create", "right", "--no-gateway", "--ipcount", "8", "--vm", small)
    before = shown(ccfd)
    assert ccfd.get("/v1/reconcile") == NOTHING
    left = ccfd.get("/v1/slices/left")
    await hold_their_leases(lab, left)
    servers = lab.pids("node", "dnsmasq")

    lose_the_database(lab, ccfd)
    until_up(ccfd, "h1", "h2")
    planned = ctl(lab, "recover", "--from-hosts", "--plan")
    assert "left" in planned
    assert ccfd.get("/v1/slices")["items"] == []
    ctl(lab, "recover", "--from-hosts")
    assert shown(ccfd) == before
    assert ccfd.get("/v1/reconcile") == NOTHING
    again = json.loads(ctl(lab, "recover", "--from-hosts", "--json"))
    assert (again["slices"], again["known"]) == ([], ["left", "right"])

    ctl(lab, "vm", "create", "left", "--name", "d", "--image", "tiny", "--flavor", "tiny")
    left = ccfd.get("/v1/slices/left")
    assert len(left["vms"]) == 3
    await hold_their_leases(lab, left)
    await reach_each_other(lab, left)
    assert lab.pids("node", "dnsmasq") == servers, "no tenant was interrupted"

    await recover_in_two_goes(lab, ccfd)
    for name in ("left", "right"):
        ctl(lab, "slice", "delete", name)
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}


async def recover_in_two_goes(lab: Lab, ccfd: CcfdProcess) -> None:
    """Lose the database while a host's libvirt is down; recover without it, then with it."""
    before = shown(ccfd)
    (libvirtd,) = lab.pids("h2", "libvirtd")
    os.kill(libvirtd, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: not lab.pids("h2", "libvirtd"), "its end")
    lose_the_database(lab, ccfd)
    partly = json.loads(ctl(lab, "recover", "--from-hosts", "--json"))
    assert list(partly["unseen"]) == ["libvirt of h2"]
    (left,) = [one for one in partly["slices"] if one["slice"] == "left"]
    assert {vm["host"] for vm in left["vms"]} == {"h1"}
    assert "it may have VMs on h2" in left["notes"][0]

    lab.start("h2", "libvirtd")
    until_up(ccfd, "h1", "h2")
    wholly = json.loads(ctl(lab, "recover", "--from-hosts", "--json"))
    assert {one["outcome"] for one in wholly["slices"]} == {"completed"}
    assert wholly["unseen"] == {}
    assert shown(ccfd) == before
    assert ccfd.get("/v1/reconcile") == NOTHING
