"""Many slices are created at once, and deleted at once, and each time a fault comes in between."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from tests import traces
from tests.ccfd_process import CcfdProcess
from tests.chaos import things
from tests.chaos.faults.fault import CCFD, Fault, Site
from tests.chaos.faults.portal import Portal
from tests.chaos.faults.row import Row
from tests.chaos.faults.witness import Witness
from tests.lab import Lab
from tests.lab.layout import NODE
from tests.portal import Body

# Seconds: for all requests of a row to end after their fault.
WITHIN = 300.0
BLANK = "blank"
ENDED = ("succeeded", "failed", "stuck")

# The step that a fault of each program comes in between; None: at any of them.
CREATING = {
    "ovs-vswitchd": "make-bridge",
    "ovsdb-server": "make-bridge",
    "libvirtd": "boot",
    "dnsmasq": "serve-dhcp",
}
# Bridges go after the VMs, all at once.
DELETING = {
    "ovs-vswitchd": "destroy-vm",
    "ovsdb-server": "destroy-vm",
    "libvirtd": "destroy-vm",
    "dnsmasq": "stop-dhcp",
}
CREATED_BY = ("make-bridge", "make-disk", "boot")
DELETED_BY = ("destroy-vm", "remove-bridge", "remove-disk")


def blank_image(lab: Lab) -> None:
    """Give the lab an image of an empty disk: a VM of it runs, and leaves the processor alone."""
    path = lab.layout.images / f"{BLANK}.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def running(lab: Lab, count: int) -> Iterator[list[CcfdProcess]]:
    """Run *count* ccfd on one database."""
    with ExitStack() as stack:
        daemons = [CcfdProcess(lab, number=number) for number in range(1, count + 1)]
        for daemon in daemons:
            daemon.log.unlink(missing_ok=True)
            stack.enter_context(daemon)
        yield daemons


@dataclass
class Load:
    """One fault, twice: while slices are created, and while they are deleted."""

    fault: Fault
    site: Site
    portal: Portal
    slices: Sequence[str]
    tell: Callable[[str], None]

    @property
    def _ccfd(self) -> CcfdProcess:
        return self.site.daemons[0]

    async def rows(self) -> list[Row]:
        """Create all, look, delete all, look."""
        witness = None
        if self.fault.program not in (CCFD, "rabbitmq", "postgresql"):
            witness = Witness(self.site.lab, self.portal)
            await witness.appear()
        vms = [{"name": "a", "flavor": "tiny", "image": BLANK}]
        creates = [
            ("slice.create", f"create-{name}", {"slice": name, "gateway": False, "vms": vms})
            for name in self.slices
        ]
        created = await self._under_fault("slice.create", creates, CREATING, CREATED_BY)
        await self._look(created, witness)
        there = [one["slice"] for one in self._slices() if one["slice"] in self.slices]
        deletes = [("slice.delete", f"delete-{name}", {"slice": name}) for name in there]
        deleted = await self._under_fault("slice.delete", deletes, DELETING, DELETED_BY)
        await self._look(deleted, witness)
        if still := {one["slice"] for one in self._slices()} & set(self.slices):
            deleted.not_whole(f"still there: {sorted(still)}")
        if witness is not None:
            await witness.vanish()
        left = await asyncio.to_thread(
            lambda: {**traces.on_hosts(self.site.lab), **traces.in_the_api(self._ccfd)}
        )
        deleted.leak(left)
        return [created, deleted]

    def _slices(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ccfd.get("/v1/slices?limit=1000")["items"]
        return found

    async def _under_fault(
        self,
        kind: str,
        events: list[tuple[str, str, Body]],
        steps: dict[str, str],
        any_of: Sequence[str],
    ) -> Row:
        """Send *events* at once; let the fault happen when some of them have come so far."""
        row = Row(fault=self.fault, event=kind, requests=len(events))
        if not events:
            return row
        requests = {request for _, request, _ in events}
        random = self.site.random
        step = steps.get(self.fault.program) or random.choice(any_of)
        count = random.randint(1, max(1, len(events) // 2))
        self.portal.publish(events)
        await self.portal.until_done(step, requests, count, WITHIN)
        row.under_way = sum(not self.portal.ends(request) for request in requests)
        said = await asyncio.to_thread(self.site.strike, self.fault)
        self.tell(f"{self.fault.title}: came when {count} had done {step}; {said}")
        over = asyncio.get_running_loop().time()
        await self.portal.until_ended(requests, WITHIN)
        last = max((self.portal.ended_at.get(request, over) for request in requests), default=over)
        row.seconds = max(0.0, last - over)
        # What is said twice is said at once; what is sent again comes after a reconnection.
        await asyncio.sleep(1.0)
        for request in sorted(requests):
            row.count(request, self.portal.ends(request))
            if not self.portal.ends(request):
                row.notes.append(f"the API says of {request}: {self._document(request)}")
        return row

    def _document(self, request: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._ccfd.get(f"/v1/requests/{quote(request, safe='')}")
        except OSError as exc:
            return {"state": "unknown", "why": str(exc)}
        return found

    async def _look(self, row: Row, witness: Witness | None) -> None:
        """See what is there twice, have all put right, and compare hosts with the database."""
        lab = self.site.lab
        row.double(await asyncio.to_thread(doubles, lab))
        await self._put_right(row)
        if witness is not None and (why := await witness.suffers()):
            row.not_whole(f"the slice that was there before: {why}")
        wanted = things.expected(self._slices(), things.tunnel_ips(lab))
        found = await asyncio.to_thread(things.of_lab, lab)
        row.leak(things.surplus(found, wanted))
        running = await asyncio.to_thread(things.running, lab)
        if missing := things.surplus(wanted, {**found, "domains": running}):
            row.not_whole(f"missing: {missing}")

    async def _put_right(self, row: Row) -> None:
        """Do what an operator does: try stuck requests again, then `ccfctl reconcile --apply`."""
        for name in self.slices:
            for request in (f"create-{name}", f"delete-{name}"):
                if self.portal.ends(request) and self._document(request)["state"] == "stuck":
                    self._ccfd.post(f"/v1/requests/{request}/retry")
                    await self._until_over(request, row)
        for _ in range(5):
            plan = await asyncio.to_thread(self._ccfd.post, "/v1/reconcile")
            row.put_back += sum(one["action"] == "put back" for one in plan["repairs"])
            row.removed += sum(one["action"] == "remove" for one in plan["repairs"])
            row.notes += [f"repaired: {one}" for one in plan["repairs"]]
            row.notes += [f"state: {one}" for one in plan["states"]]
            if not any(plan[what] for what in ("repairs", "states", "unfinished", "unseen")):
                return
            for request in plan["requests"]:
                await self._until_over(request, row)
            await asyncio.sleep(0.5)
        row.not_whole(f"reconcile --apply does not come to an end: {plan}")

    async def _until_over(self, request: str, row: Row) -> None:
        end = time.monotonic() + WITHIN
        while (document := self._document(request))["state"] not in ENDED:
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        if document["state"] not in ("succeeded", "failed"):
            row.not_whole(f"{request} does not end: {document}")


def doubles(lab: Lab) -> list[str]:
    """List VMs with several QEMU, on whichever hosts, and slices with several DHCP servers."""
    machines: Counter[str] = Counter()
    for host in lab.layout.compute:
        for pid in lab.pids(host, "qemu-system-x86"):  # the kernel keeps 15 characters
            words = _words(pid)
            machines.update(words[at + 1] for at, word in enumerate(words) if word == "-uuid")
    servers: Counter[str] = Counter(
        _words(pid)[-1] for pid in lab.pids(NODE, "dnsmasq") if _words(pid)
    )
    found = [*machines.items(), *servers.items()]
    return [f"{name}, {count} times" for name, count in found if count > 1]


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().strip("\0").split("\0")
    except OSError:  # gone meanwhile
        return []


async def run(
    lab: Lab, fault: Fault, count: int, *, random: Random, tell: Callable[[str], None]
) -> list[Row]:
    """Let *fault* happen in *lab*, under *count* slices at once."""
    tag = f"{random.randrange(1 << 32):08x}"
    slices = [f"s{number}-{tag}" for number in range(count)]
    with running(lab, fault.daemons) as daemons:
        async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
            site = Site(lab=lab, daemons=daemons, random=random)
            return await Load(fault, site, portal, slices, tell).rows()
