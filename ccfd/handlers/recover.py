"""The database's rows of slices and VMs, made again from what hosts hold: docs/operate.md.

It only adds what the database lacks, a slice a transaction; whatever does not fit is left out.
"""

from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.handlers import gateway_choice, meanwhile, reconcile_rows, vm_choice
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile import Looks
from ccfd.handlers.reconcile_compare import Present, vm_of
from ccfd.handlers.recover_told import Told, gather
from ccfd.handlers.slice_events import VNI_POOL, insert_slice
from ccfd.ipam import pools, subnets
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Database, Transaction
from ccfd.store.outbox import timestamp
from ccfd.vt.ssh_keys import SshKeys
from ccfd.workflow.records import Seen
from ccfd.workflow.results import SLICE_KEY

log = structlog.get_logger()

Document = dict[str, Any]


class Heard(NamedTuple):
    """What hosts told, after the request with the number `since`; `silent` says who did not."""

    told: list[Told]
    present: Present
    silent: dict[str, str]
    since: int


class Recovery:
    """Makes the rows again."""

    def __init__(self, settings: Settings, database: Database, look: Looks) -> None:
        self._settings = settings
        self._database = database
        self._look = look
        self._ssh_keys = SshKeys(settings.slices.ssh_key_secrets)

    async def plan(self) -> Document:
        """Return what would be made again, and what would be left out."""
        heard = await self._listen()

        async def rehearse(transaction: Transaction) -> None:
            made = [await self._recover(one, heard.since, transaction) for one in heard.told]
            raise Seen(await _document(made, heard, transaction))

        try:
            await self._database.run(rehearse)
        except Seen as seen:
            return seen.chosen
        raise AssertionError("a rehearsal ends by its exception")

    async def apply(self) -> Document:
        """Make it again; return what was made, and what was left out."""
        heard = await self._listen()
        made = []
        for one in heard.told:
            made.append(await self._database.run(partial(self._recover, one, heard.since)))
            log.info("recovery", slice=one.name, outcome=made[-1]["outcome"])
        async with self._database.read() as transaction:
            return await _document(made, heard, transaction)

    async def _listen(self) -> Heard:
        async with self._database.read() as transaction:
            since = await meanwhile.latest(transaction)
        present, silent = await self._look.look()
        return Heard(gather(Layout(self._settings), present), present, silent, since)

    async def _recover(self, told: Told, since: int, transaction: Transaction) -> Document:
        """Make one slice's rows, or none of them; say what became of it."""
        if told.planned is None or told.faults:
            return _left_out(told.name, "; ".join(told.faults))
        try:
            async with transaction.savepoint():
                outcome, vms = await self._adopt(told.planned, told, since, transaction)
        except Refused as exc:
            return _left_out(told.name, exc.message)
        return {
            "slice": told.name,
            "outcome": outcome,
            "vni": told.planned.vni,
            "subnet": told.planned.address,
            "vms": [
                {
                    "vm": vm.id,
                    "name": vm.name,
                    "host": vm.host,
                    "ip": vm.ip,
                    "state": told.states[vm.id],
                }
                for vm in vms
            ],
            "notes": [
                *told.notes,
                *(self._about_keys(told.planned) if outcome == "rebuilt" else ()),
                *_overdue(told.planned, transaction),
            ],
        }

    async def _adopt(
        self, planned: PlannedSlice, told: Told, since: int, transaction: Transaction
    ) -> tuple[str, list[PlannedVm]]:
        """Add what the database lacks of a slice. Raises `Refused` where something is in the way.

        Returns `rebuilt`, `completed` (only VMs were missing) or `known`, and the VMs added.
        """
        key = f"{SLICE_KEY}{planned.name}"
        if not await meanwhile.is_untouched(key, since, transaction):
            raise Refused("invalid_state", "a request for it is at work: run this again after it")
        row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == planned.name).with_for_update()
        )
        if row is None:
            await self._make(planned, transaction)
        else:
            net = await subnets.find(planned.name, transaction)
            has = (row.vni, subnets.gateway_of(net) if net else "none")
            if row.state not in reconcile_rows.SETTLED or has != (planned.vni, planned.address):
                raise Refused(
                    "invalid_state",
                    f"the database has it as {row.state}, with VNI {has[0]} and subnet {has[1]};"
                    f" hosts tell of VNI {planned.vni} and subnet {planned.address}",
                )
        lacking = await _lacking(planned, transaction)
        await vm_choice.adopt(planned.name, lacking, told.states, told.snapshots, transaction)
        if row is None:
            return "rebuilt", lacking
        return "completed" if lacking else "known", lacking

    async def _make(self, planned: PlannedSlice, transaction: Transaction) -> None:
        first, last = self._settings.slices.vni
        if not first <= planned.vni <= last:
            raise Refused("invalid_state", f"VNI {planned.vni} is not in [slices] vni")
        timeout = self._settings.ipam.timeout
        net = await subnets.claim(planned.name, planned.address, timeout, transaction)
        holder = await pools.claim(VNI_POOL, planned.vni, planned.name, transaction)
        if holder is not None:
            raise Refused("invalid_state", f"VNI {planned.vni} is {holder}'s in the database")
        island = await subnets.island_of(net, transaction)
        await gateway_choice.claim(planned, island, transaction)
        # The old pair's private half was in the lost database alone.
        pair = self._ssh_keys.make(planned.name)
        await insert_slice(planned, island, "active", pair, transaction)

    def _about_keys(self, planned: PlannedSlice) -> list[str]:
        if not self._ssh_keys.are_made:
            return []
        knows = ": VMs that are there let in the old one, which is lost" if planned.vms else ""
        return [f"its own SSH key is new{knows}"]


async def _lacking(planned: PlannedSlice, transaction: Transaction) -> list[PlannedVm]:
    vm = tables.vm
    ids = [one.id for one in planned.vms]
    rows = await transaction.all(select(vm.c.id, vm.c.slice).where(vm.c.id.in_(ids)))
    for row in rows:
        if row.slice != planned.name:
            raise Refused("vm_exists", f"the database has VM {row.id} in slice {row.slice}")
    known = {row.id for row in rows}
    return [one for one in planned.vms if one.id not in known]


def _left_out(name: str, why: str) -> Document:
    return {"slice": name, "outcome": "left out", "why": why}


def _overdue(planned: PlannedSlice, transaction: Transaction) -> list[str]:
    if planned.expires_at is None or planned.expires_at > transaction.now:
        return []
    return [f"its time was over at {timestamp(planned.expires_at)}: ccfd deletes it"]


async def _document(made: list[Document], heard: Heard, transaction: Transaction) -> Document:
    """Return the outcome as the API shows it."""
    rows = await transaction.all(select(tables.vm.c.id))
    domains = {one.vm for here in heard.present.hosts.values() for one in here.domains}
    known = domains | {row.id for row in rows}
    return {
        "slices": [one for one in made if one["outcome"] in ("rebuilt", "completed")],
        "known": [one["slice"] for one in made if one["outcome"] == "known"],
        "left_out": [{"slice": one["slice"], "why": one["why"]} for one in made if "why" in one],
        "disks": [
            {"vm": vm, "host": host}
            for host, here in sorted(heard.present.hosts.items())
            for vm in sorted({vm_of(volume) for volume in here.volumes} - known)
        ],
        "unseen": dict(sorted(heard.silent.items())),
    }
