"""Who has a slice's key gets into its VMs, and nobody else does."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccfd.model import names
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_slices import hold_their_leases
from tests.lab import Lab

WITHIN = 120.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("access") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    alone = {**sqlite(lab.layout.dir / "node"), "CCFD_BROKER__URL": ""}
    with CcfdProcess(lab, alone) as process:
        yield process


def ctl(lab: Lab, *words: str) -> str:
    argv = [".venv/bin/ccfctl", "--socket", lab.env["CCF_SOCKET"], *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ssh(lab: Lab, document: dict[str, Any], key: Path, *words: str) -> list[str]:
    """Say the command that logs in from the slice's namespace on the network node."""
    (vm,) = document["vms"]
    known = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    options = (*known, "BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none")
    argv = [
        *("ip", "netns", "exec", names.namespace(document["vni"])),
        *("ssh", "-F", "none", "-i", str(key)),
        *(word for one in (*options, "ConnectTimeout=60") for word in ("-o", one)),
        *(f"root@{vm['ip']}", *words),
    ]
    return lab.exec_argv("node", argv)


async def answers(argv: list[str]) -> str:
    """Run the command until it succeeds: a guest takes a while to answer."""
    end = time.monotonic() + WITHIN
    while True:
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode == 0:
            return done.stdout
        assert time.monotonic() < end, done.stderr
        await asyncio.sleep(0.5)


async def test_a_vm_lets_in_the_slices_key_and_the_tenants_and_no_other(
    lab: Lab, ccfd: CcfdProcess, tmp_path: Path
) -> None:
    for name in ("tenant", "stranger"):
        generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(generate, check=True, timeout=30)
    given = ("--ssh-key", str(tmp_path / "tenant.pub"))
    machine = "name=web,image=tiny,flavor=tiny"
    ctl(lab, "slice", "create", "demo", "--no-gateway", *given, "--vm", machine)
    document = ccfd.get("/v1/slices/demo")
    own = tmp_path / "own"
    ctl(lab, "slice", "ssh-key", "demo", "--output", str(own))
    await hold_their_leases(lab, document)

    seed = await answers(ssh(lab, document, own, "hostname; cat /var/instance-id"))
    assert seed.split() == ["web", document["vms"][0]["vm"]]
    assert await answers(ssh(lab, document, tmp_path / "tenant", "hostname")) == "web\n"
    refused = subprocess.run(
        ssh(lab, document, tmp_path / "stranger", "hostname"),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr

    told = ccfd.log.read_text() + ctl(lab, "why", "demo") + ctl(lab, "slice", "show", "demo")
    for line in own.read_text().splitlines():
        assert line not in told
    ctl(lab, "slice", "delete", "demo")
