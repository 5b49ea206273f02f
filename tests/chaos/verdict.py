"""Is everything as it should be after a kill? Lost and doubled ends, leaks, halves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import select

from ccfd.documents import COLLECTIONS
from ccfd.handlers.vm_states import OBSERVED
from ccfd.handlers.vm_watch import VmWatch
from ccfd.model import names
from ccfd.store import tables
from tests.chaos import things
from tests.chaos.life import Folder, request_id
from tests.chaos.scenarios import SLICE, Scenario
from tests.chaos.tripwire import Tripwire
from tests.harness import Harness
from tests.twins import LookTwin, World, no_trap
from tests.unit.handlers.test_slice_story import NOTHING

CLAIMS = {
    "addresses": "addresses",
    "subnets": "subnets",
    "blocks": "subnets",
    "pooled": "pool items",
    "slices": "records",
    "vms": "records",
    "cpu": "capacity",
    "ram": "capacity",
    "disk": "capacity",
}
"""What a leaked claim counts as."""
ADDRESSES = ("cidr", "ip", "mac")


@dataclass
class Verdict:
    """What was found: `ends` is the state in which all was left, without what is random in it."""

    ended_once: bool = True
    whole: bool = True
    leaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ends: Any = None

    @property
    def good(self) -> bool:
        """Tell whether nothing was found."""
        return self.ended_once and self.whole and not self.leaks

    def leak(self, kind: str, what: Any, count: int = 1) -> None:
        """Note a leak."""
        self.leaks[kind] = self.leaks.get(kind, 0) + count
        self.notes.append(f"leaked {kind}: {what}")

    def not_whole(self, why: str) -> None:
        """Note what is half."""
        self.whole = False
        self.notes.append(why)

    def to_json(self) -> str:
        """Return the stored form."""
        return json.dumps(asdict(self))


async def judge(folder: Folder, scenario: Scenario, normal: Any) -> Verdict:
    """Judge what the lives in *folder* have left, then delete all and look again.

    *normal* is how the scenario ends when nobody is killed.
    """
    verdict = Verdict()
    harness = folder.open(Tripwire())
    harness.world.trap = no_trap
    # What hosts say goes before what a request that failed has left in the rows.
    watch = VmWatch(harness.settings, harness.database, harness.intake, LookTwin(harness.world))
    for host in ("h1", "h2"):
        await watch.look(host, None)
    await _ends(harness, scenario, verdict)
    # What is stuck holds what it could not undo, and keeps its claims.
    if not any(state == "stuck" for state, *_ in verdict.ends["states"]):
        await compare(harness, verdict)
    if normal is not None and verdict.ends != normal:
        verdict.not_whole(f"it ended as {verdict.ends}, without a kill as {normal}")
    twice = [vm for vm, times in Counter(harness.world.boots).items() if times > scenario.starts]
    if twice:
        verdict.not_whole(f"started too often: {twice}")
    async with harness.running():
        await _delete_all(harness, verdict)
    await _nothing_is_left(harness, verdict)
    await harness.database.close()
    return verdict


async def _ends(harness: Harness, scenario: Scenario, verdict: Verdict) -> None:
    """Check that each request has one terminal result, and note what all ended as."""
    states = []
    async with harness.database.read() as transaction:
        for number in range(len(scenario.asks)):
            row = await transaction.one(
                select(tables.request).where(tables.request.c.request_id == request_id(number))
            )
            assert row is not None
            said = await transaction.all(
                select(tables.outbox).where(
                    tables.outbox.c.type.in_((f"{row.type}.succeeded", f"{row.type}.failed"))
                )
            )
            bodies = [(one.message_id, json.loads(one.body)) for one in said]
            mine = [one for one in bodies if one[1]["request_id"] == row.request_id]
            if not mine or any(one != (row.terminal_message_id, row.terminal) for one in mine):
                verdict.ended_once = False
                verdict.notes.append(f"{row.request_id} ended as {mine}")
            end = row.terminal
            code = end.get("error", {}).get("code")
            states.append([row.state, end["outcome"], code, end.get("compensated")])
        # Which of many comes first is another one each time, and so is who gets which address.
        holds = await _holds(transaction, without=ADDRESSES if scenario.at_once else ())
        verdict.ends = {"states": states, "holds": holds}


async def _holds(transaction: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """List what the database holds, without ids and times, nor the fields *without*."""
    held: dict[str, Any] = {}
    for what, fields in (
        ("slices", ("slice", "state", "cidr", "hosts", "controller")),
        ("vms", ("name", "state", "ip", "mac", "host", "cpu", "ram", "disk", "snapshots")),
        ("subnets", ("owner", "cidr", "state")),
        ("hosts", ("host", "cpu", "ram", "disk")),
    ):
        page = await COLLECTIONS[what].page(100, None, {}, transaction)
        for item in page["items"]:
            _rename_controllers(item)
        kept = [name for name in fields if name not in without]
        rows = [[item[name] for name in kept] for item in page["items"]]
        held[what] = sorted(rows, key=json.dumps)
    return held


def _rename_controllers(item: dict[str, Any]) -> None:
    """Put a word in the place of what is another each time: a controller's name and id."""
    if item.get("kind") == "controller":
        item["name"] = "controller"
    if item.get("controller"):
        item["controller"] = [*sorted(item["controller"]), item["controller"]["address"]]


async def compare(harness: Harness, verdict: Verdict) -> None:
    """Check that the hosts hold what the database says, and the database what its slices need."""
    async with harness.database.read() as transaction:
        slices = (await COLLECTIONS["slices"].page(100, None, {}, transaction))["items"]
        subnets = (await COLLECTIONS["subnets"].page(100, None, {}, transaction))["items"]
    tunnel_ips = {
        names.NODE: harness.settings.network_node.tunnel_ip,
        **{host.name: host.tunnel_ip for host in harness.settings.host},
    }
    found, wanted = things.of_twins(harness.world), things.expected(slices, tunnel_ips)
    for kind, left in things.surplus(found, wanted).items():
        verdict.leak(kind, left, len(left))
    missing = things.surplus(wanted, found)
    if missing:
        verdict.not_whole(f"missing: {missing}")
    if not things.is_whole(harness.world):
        verdict.not_whole(f"a half thing: {harness.world.leftovers()}")
    held = [vm for one in slices for vm in one["vms"] if vm["host"] is not None]
    wanted_claims = {
        "slices": len(slices),
        "subnets": len(subnets),
        "blocks": len(subnets),
        # The VNI of each slice, the number of each block, and the addresses of controllers and
        # of gateways outside.
        "pooled": len(slices)
        + len(subnets)
        + len([vm for vm in held if vm["kind"] == "controller"])
        + len([one for one in slices if one["gateway"]]),
        "addresses": len([vm for vm in held if vm["kind"] == "slice"]),
        **{size: sum(vm[size] for vm in held) for size in ("cpu", "ram", "disk")},
    }
    failed = any(compensated is False for *_, compensated in verdict.ends["states"])
    for vm in held:
        for why in _differences(harness.world, vm, failed=failed):
            verdict.not_whole(f"{vm['name']}: {why}")
    claims = await harness.claims()
    for claim, wants in wanted_claims.items():
        if claims[claim] != wants:
            verdict.leak(CLAIMS[claim], f"{claim} {claims[claim]}, not {wants}")


def _differences(world: World, vm: dict[str, Any], *, failed: bool) -> Iterator[str]:
    """Say in what a VM's host differs from its document, where neither is on its way."""
    at = (vm["host"], vm["vm"])
    if vm["state"] not in OBSERVED or at not in world.definitions:
        return
    machine = world.definitions[at]
    if world.state_of(machine) != vm["state"]:
        yield f"{vm['state']}, but its domain is {world.state_of(machine)}"
    if list(world.snapshots.get(at, ())) != vm["snapshots"]:
        yield f"snapshots {vm['snapshots']}, but its disk has {world.snapshots.get(at)}"
    there = (machine.cpu, machine.ram, world.sizes[at])
    wanted = (vm["cpu"], vm["ram"], vm["disk"])
    # What failed on its way forward may need the larger of two sizes.
    if there != wanted and not (failed and all(a <= b for a, b in zip(there, wanted, strict=True))):
        yield f"{wanted} is claimed, and {there} is there"


async def _delete_all(harness: Harness, verdict: Verdict) -> None:
    """Delete what there is, as its owner would."""
    async with harness.database.read() as transaction:
        held = await _holds(transaction)
    doomed = [("slice.delete", {"slice": name}) for name, *_ in held["slices"]]
    if held["subnets"] and not held["slices"]:
        doomed = [("subnet.delete", {"owner": SLICE})]
    for kind, body in doomed:
        gone = await harness.ask(kind, **body)
        if gone["outcome"] != "succeeded":
            verdict.not_whole(f"{kind} ended as {gone}")


async def _nothing_is_left(harness: Harness, verdict: Verdict) -> None:
    left = things.surplus(things.of_twins(harness.world), things.nothing())
    for kind, items in left.items():
        verdict.leak(kind, f"{items} after everything was deleted", len(items))
    claims = await harness.claims()
    for claim in NOTHING:
        if claims[claim]:
            verdict.leak(CLAIMS[claim], f"{claim} {claims[claim]} after everything was deleted")
    async with harness.database.read() as transaction:
        still = await transaction.all(
            select(tables.request.c.request_id).where(
                tables.request.c.state.in_(("queued", "running", "undoing", "stuck"))
            )
        )
    if still:
        verdict.not_whole(f"requests that never end: {still}")
