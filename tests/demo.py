"""`make demo`: one slice from a portal's message to two VMs that talk, and back to nothing.

Everything is real: RabbitMQ, libvirt, QEMU, Open vSwitch, dnsmasq. Set KEEP=1 to look around.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests import traces
from tests.ccfd_process import CcfdProcess, sqlite
from tests.lab import Lab
from tests.lab.layout import CHECKOUT
from tests.lab.shell import LabError
from tests.portal import Portal

FOLDER = CHECKOUT / ".demo"
SLICE = "demo"
BOOT_WITHIN = 60.0
say = Console(highlight=False, width=100).print


def main() -> int:
    """Show it; return 0 when all that was promised was seen."""
    began = time.monotonic()
    step("a testbed of two hosts, a network node, RabbitMQ and an outside")
    lab = Lab.up(FOLDER, 2)
    keep = os.environ.get("KEEP") == "1"
    try:
        step("ccfd on the network node, with its embedded database")
        ccfd = CcfdProcess(lab, sqlite(FOLDER / "node"))
        ccfd.start()
        say(f"  ready: {ccfd.get('/readyz')}")
        asyncio.run(show(lab, ccfd))
        if keep:
            explain(lab)
            return 0
        asyncio.run(clean_up(lab, ccfd))
        status = ccfd.stop()
        say(f"  ccfd ended with status {status}")
    finally:
        if not keep:
            lab.down()
    say(f"\n[green]All of it was seen[/green], in {time.monotonic() - began:.0f} s.")
    return 0


def step(what: str) -> None:
    """Announce a part of the demonstration."""
    say(f"\n[bold]▸ {what}[/bold]")


def live(body: dict[str, Any]) -> None:
    """Print one result as it comes."""
    progress = body.get("progress")
    if progress is None:
        say(f"  {body['outcome']}")
    else:
        where = f"{progress['index']:>2}/{progress['of']}"
        say(f"  {where}  {progress['step']:<16} {progress['status']}")


async def show(lab: Lab, ccfd: CcfdProcess) -> None:
    """Make the slice and prove what it promises."""
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
        step("a portal publishes slice.create")
        vms = [{"name": name, "flavor": "tiny", "image": "tiny"} for name in ("alice", "bob")]
        began = time.monotonic()
        made = await portal.ask("slice.create", show=live, slice=SLICE, gateway=False, vms=vms)
        if made["outcome"] != "succeeded":
            raise SystemExit(f"slice.create failed: {made['error']}\n{ccfd.tail()}")
        say(f"  after {time.monotonic() - began:.2f} s")
    document = ccfd.get(f"/v1/slices/{SLICE}")
    step("two VMs on two hosts")
    for vm in document["vms"]:
        state = lab.run(vm["host"], ["virsh", "domstate", vm["vm"]]).stdout.strip()
        say(f"  {vm['name']:<6} on {vm['host']}  {vm['ip']:<10} {vm['mac']}  libvirt: {state}")
    need(len({vm["host"] for vm in document["vms"]}) == 2, "the VMs are on two hosts")
    step("each holds its lease")
    leases = Path(lab.layout.dir / "network" / str(document["vni"]) / "leases")
    for vm in document["vms"]:
        line = wait_for(lambda vm=vm: lease(leases, vm["mac"]), f"{vm['name']} has a lease")
        inside = wait_for(lambda vm=vm: address(lab, vm), f"{vm['name']} has its address")
        say(f"  dnsmasq: {line}")
        say(f"  {vm['name']}:{' ' * (7 - len(vm['name']))} {inside.strip()}")
        need(vm["ip"] in line and vm["ip"] in inside, "lease and guest agree with ccfd")
    step("they reach each other across the tunnel, by TCP")
    first, second = document["vms"]
    for one, other in ((first, second), (second, first)):
        answer = lab.guest(
            one["vm"], ["timeout", "5", "wget", "-qO-", f"http://{other['ip']}/"]
        ).strip()
        say(f"  {one['name']}$ wget -qO- http://{other['ip']}/  →  {answer}")
        need(answer == other["name"], "the other VM answered")
    for host in (first["host"], second["host"]):
        seen = lab.run(
            host,
            ["ovs-vsctl", "--columns=name,options,statistics", "find", "Interface", "type=vxlan"],
        ).stdout
        say("  " + f"{host}: " + " ".join(seen.split())[:150])


async def clean_up(lab: Lab, ccfd: CcfdProcess) -> None:
    """Delete the slice and look for what is left."""
    async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
        step("a portal publishes slice.delete")
        gone = await portal.ask("slice.delete", show=live, slice=SLICE)
        need(gone["outcome"] == "succeeded", "the slice is deleted")
    step("what is left")
    left = {**traces.on_hosts(lab), **traces.in_the_api(ccfd)}
    for what in (
        "domains",
        "bridges",
        "ports",
        "namespaces",
        "links",
        "tables",
        "servers",
        "volumes",
        "slices",
        "vms",
        "subnets",
        "used",
    ):
        say(f"  {what:<12} {len(left.get(what, []))}")
    need(not left, f"nothing is left: {left}")


def lease(path: Path, mac: str) -> str | None:
    """Return the line of *mac* in a dnsmasq leases file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line for line in lines if mac in line), None)


def address(lab: Lab, vm: dict[str, Any]) -> str | None:
    """Return what a guest shows of its interface, once ccfd's address is on it."""
    try:
        shown = lab.guest(vm["vm"], ["ip", "-4", "-o", "addr", "show", "eth0"])
    except LabError:
        return None
    return shown if vm["ip"] in shown else None


def wait_for(look: Any, what: str) -> str:
    """Look until there is something to see."""
    end = time.monotonic() + BOOT_WITHIN
    while (found := look()) is None:
        need(time.monotonic() < end, what)
        time.sleep(0.2)
    return str(found)


def need(condition: bool, what: str) -> None:
    """End the demonstration when it does not show what it promises."""
    if not condition:
        raise SystemExit(f"NOT seen: {what}")


def explain(lab: Lab) -> None:
    """Say how to look around."""
    ctl = f".venv/bin/ccfctl --url {lab.env['CCF_HTTP_URL']} --token {lab.env['CCF_TOKEN']}"
    inside = f".venv/bin/python -m tests.lab exec --dir {FOLDER}"
    step("it stays; look around")
    say(f"  {ctl} slice show {SLICE}")
    say(f"  {ctl} watch")
    say(f"  {inside} h1 -- virsh list")
    say(f"  {inside} node -- ovs-vsctl show")
    say(f"  .venv/bin/python -m tests.lab guest --dir {FOLDER} VM-UUID -- ip addr")
    say(f"  tail -f {FOLDER / 'ccfd.log'}")
    say(f"  .venv/bin/python -m tests.lab down --dir {FOLDER}      # and away with it")


if __name__ == "__main__":
    sys.exit(main())
