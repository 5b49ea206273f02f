"""How long a slice takes, from the portal's message to `succeeded`, beside the bare calls.

    python -m tests.bench.slice_create [ROUNDS]

Two VMs on two hosts, the image already there. The rounds alternate, so that both meet the same
machine; both remove their slice before the next round, untimed.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ccfd.model import names
from tests.ccfd_process import CcfdProcess
from tests.lab import Lab
from tests.lab.layout import CHECKOUT
from tests.portal import Portal

VMS = [{"name": name, "flavor": "tiny", "image": "tiny"} for name in ("a", "b")]


async def ccfd_round(portal: Portal) -> tuple[float, float]:
    """Create a slice and delete it; return the seconds of each."""
    began = time.perf_counter()
    made = await portal.ask("slice.create", slice="bench", gateway=False, vms=VMS)
    seconds = time.perf_counter() - began
    assert made["outcome"] == "succeeded", made
    began = time.perf_counter()
    gone = await portal.ask("slice.delete", slice="bench")
    assert gone["outcome"] == "succeeded", gone
    return seconds, time.perf_counter() - began


def bare_round(bare: subprocess.Popen[str]) -> float:
    """Have the bare script make a slice; return its seconds."""
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdin.write("go\n")
    bare.stdin.flush()
    return float(bare.stdout.readline())


async def measure(lab: Lab, ccfd: CcfdProcess, rounds: int) -> None:
    """Alternate and print."""
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
        await ccfd_round(portal)  # the image gets to both hosts
        image = names.image_volume(ccfd.get("/v1/images/tiny")["checksum"])
        argv = [
            sys.executable,
            "-m",
            "tests.bench.bare_slice",
            str(lab.layout.dir / "ccfd.toml"),
            image,
        ]
        with subprocess.Popen(
            lab.exec_argv("node", argv),
            cwd=CHECKOUT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as bare:
            assert bare.stdout is not None
            assert bare.stdout.readline() == "ready\n"
            bare_round(bare)
            ours, deletions, floor = [], [], []
            for _ in range(rounds):
                floor.append(bare_round(bare))
                made, gone = await ccfd_round(portal)
                ours.append(made)
                deletions.append(gone)
            assert bare.stdin is not None
            bare.stdin.close()
    show("ccfd", ours)
    show("bare script", floor)
    print(f"{'ratio of medians':<18} {statistics.median(ours) / statistics.median(floor):.2f}")
    show("(slice.delete)", deletions)


def show(what: str, seconds: list[float]) -> None:
    """Print a line of figures."""
    print(
        f"{what:<18} median {statistics.median(seconds):.3f} s   "
        f"least {min(seconds):.3f}   most {max(seconds):.3f}   of {len(seconds)}"
    )


def main() -> None:
    """Raise a lab, measure, take it down."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    with tempfile.TemporaryDirectory(prefix="ccfd-bench-") as folder:
        lab = Lab.up(Path(folder) / "lab", 2)
        try:
            with CcfdProcess(lab) as ccfd:
                asyncio.run(measure(lab, ccfd, rounds))
        finally:
            lab.down()


if __name__ == "__main__":
    main()
