"""A host whose libvirtd is frozen holds up nobody else, and what was meant for it is undone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import pytest

from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.chaos.faults.load import BLANK, blank_image
from tests.lab import Lab
from tests.lab.layout import CHECKOUT
from tests.portal import Body, Portal

CALL_TIMEOUT = 15.0
"""Seconds that a call to libvirt may take here."""
GIVEN_UP_WITHIN = CALL_TIMEOUT + 60.0
"""Seconds for the call that hangs, five retries, and what a loaded machine adds."""
KNOWN_WITHIN = 90.0
"""Seconds until a host that fell silent is known to be down: about ten on an idle machine."""
SLICES = 5


def vm(name: str, **more: Any) -> Body:
    return {"name": name, "flavor": "tiny", "image": BLANK, **more}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("frozen") / "lab", hosts=2)
    blank_image(lab)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    with CcfdProcess(lab, {"CCFD_HYPERVISOR__CALL_TIMEOUT": str(CALL_TIMEOUT)}) as process:
        yield process


@pytest.fixture
async def portal(lab: Lab, ccfd: CcfdProcess) -> AsyncIterator[Portal]:
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as connected:
        yield connected


@contextmanager
def frozen(lab: Lab, host: str) -> Iterator[None]:
    """Stop a host's libvirtd as a hung kernel would: it keeps its sockets and answers nothing."""
    pids = lab.pids(host, "libvirtd")
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def until_state(ccfd: CcfdProcess, host: str, state: str) -> float:
    """Wait until the host is in *state*; return the seconds that it took."""
    began = time.monotonic()
    while ccfd.get(f"/v1/hosts/{host}")["state"] != state:
        assert time.monotonic() - began < KNOWN_WITHIN, ccfd.tail()
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def up(ccfd: CcfdProcess, host: str) -> float:
    return ccfd.metric("ccfd_host_up", f'host="{host}"')


def changes(portal: Portal, host: str) -> list[tuple[str, str]]:
    """Return from what to what the portal has heard that *host* changed."""
    told = [body for body in portal.heard if body["type"] == "host.state_changed"]
    return [(body["from"], body["to"]) for body in told if body["host"] == host]


async def on_the_other(portal: Portal, count: int) -> list[float]:
    """Make and delete slices with a VM on h1, one after another; return each one's seconds."""
    spent = []
    for number in range(count):
        name = f"good-{number}"
        began = time.monotonic()
        made = await portal.ask("slice.create", slice=name, gateway=False, vms=[vm("a", host="h1")])
        spent.append(time.monotonic() - began)
        assert made["outcome"] == "succeeded", made
        assert (await portal.ask("slice.delete", slice=name))["outcome"] == "succeeded"
    return spent


def check(lab: Lab) -> tuple[int, dict[str, str]]:
    """Run `ccfd check`; return its exit status and its lines by what they are of."""
    program = CHECKOUT / ".venv" / "bin" / "ccfd"
    config = str(lab.layout.dir / "ccfd.toml")
    done = lab.run("node", [str(program), "check", "--config", config], timeout=90, check=False)
    assert done.stderr == ""
    return done.returncode, {line[6:].split("  ")[0]: line for line in done.stdout.splitlines()}


def test_ccfd_check_finds_the_host_that_is_frozen_and_no_fault_with_the_others(lab: Lab) -> None:
    status, lines = check(lab)
    assert status == 0, lines
    assert "FAIL" not in {line[:4] for line in lines.values()}
    for what in ("broker", "database", "images", "node: nft", "node: way out"):
        assert lines[what].startswith("ok"), lines[what]
    for host in ("h1", "h2"):
        for what in ("libvirt", "KVM", "switch"):
            assert lines[f"{host}: {what}"].startswith("ok")
    with frozen(lab, "h2"):
        status, lines = check(lab)
    assert status == 1
    assert [what for what, line in lines.items() if line.startswith("FAIL")] == ["h2: libvirt"]


async def test_a_frozen_host_fails_alone(lab: Lab, ccfd: CcfdProcess, portal: Portal) -> None:
    for host in ("h1", "h2"):
        await until_state(ccfd, host, "up")
    kept = await portal.ask(
        "slice.create", slice="kept", gateway=False, vms=[vm("a", host="h1"), vm("b", host="h2")]
    )
    assert kept["outcome"] == "succeeded", kept
    before = await on_the_other(portal, SLICES)

    with frozen(lab, "h2"):
        stopped = time.monotonic()
        doomed = [
            await portal.publish(
                "slice.create", {"slice": f"bad-{n}", "gateway": False, "vms": [vm("a", host="h2")]}
            )
            for n in range(3)
        ]
        grown = await portal.publish("vm.create", {"slice": "kept", **vm("c", host="h2")})
        during = await on_the_other(portal, SLICES)
        for request in doomed:
            ended = await portal.terminal(request)
            assert ended["error"]["code"] == "host_unreachable", ended
            assert ended["compensated"] is True
        ended = await portal.terminal(grown)
        given_up = time.monotonic() - stopped
        assert ended["error"]["code"] == "host_unreachable", ended
        assert ended["compensated"] is True
        assert (await portal.ask("vm.delete", vm=ended["error"]["details"]["vm"]))["result"]

        await until_state(ccfd, "h2", "down")
        assert (up(ccfd, "h1"), up(ccfd, "h2")) == (1, 0)
        late = await portal.ask(
            "slice.create", slice="late", gateway=False, vms=[vm("a", host="h2")]
        )
        assert late["error"]["code"] == "no_valid_host", late
        assert late["error"]["details"]["hosts"]["h2"] == "state: the host is down"
        anywhere = await portal.ask(
            "slice.create", slice="anywhere", gateway=False, vms=[vm("a"), vm("b")]
        )
        assert anywhere["result"]["hosts"] == ["h1"], anywhere
        assert (await portal.ask("slice.delete", slice="anywhere"))["outcome"] == "succeeded"
        (host,) = [one for one in ccfd.get("/v1/hosts")["items"] if one["host"] == "h2"]
        assert host["cpu"]["used"] == 1, "only what the slice from before holds"

    await until_state(ccfd, "h2", "up")
    assert up(ccfd, "h2") == 1
    turns = [("up", "down"), ("down", "up")]
    async with asyncio.timeout(KNOWN_WITHIN), portal.news:
        while changes(portal, "h2")[-2:] != turns:
            await portal.news.wait()
    print(
        f"slice.create on the other host: {median(before):.2f} s before, {median(during):.2f} s"
        f" during (of {SLICES}); host_unreachable after {given_up:.1f} s"
    )
    assert given_up < GIVEN_UP_WITHIN
    # One that had to wait for the frozen host would take as long as a call to it may.
    assert median(during) < 2 * median(before) + CALL_TIMEOUT / 2
    assert (await portal.ask("slice.delete", slice="kept"))["outcome"] == "succeeded"
    assert {**traces.on_hosts(lab), **traces.in_the_api(ccfd)} == {}
