"""Every slice has a key that its VMs let in; its private half is in no other place than its row."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from ccfd.documents import history
from ccfd.handlers.slice_events import CreateSlice
from ccfd.requests.events import SliceCreate
from ccfd.settings import Slices
from ccfd.store import tables
from ccfd.vt.ssh_keys import SshKeys
from tests.harness import Harness
from tests.twins import no_trap
from tests.unit.handlers.test_slice_story import VM

MINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"


async def everything(harness: Harness) -> str:
    """Return all that the database holds, as text."""
    async with harness.database.read() as transaction:
        rows = [
            [dict(row._mapping) for row in await transaction.all(select(table))]
            for table in tables.metadata.sorted_tables
        ]
    return str(rows)


@pytest.fixture
def seeds(harness: Harness) -> dict[str, tuple[str, ...]]:
    """Keys in the seeds, by the names of VMs."""
    found: dict[str, tuple[str, ...]] = {}

    async def watch(call: str, args: Any) -> None:
        await no_trap(call, args)
        if call == "disks.make:after":
            found[args.hostname] = args.ssh_keys

    harness.world.trap = watch
    return found


async def test_all_its_vms_let_in_the_same_key_beside_those_that_were_asked_for(
    harness: Harness, seeds: dict[str, tuple[str, ...]]
) -> None:
    wanted = {"slice": "demo", "gateway": False, "ssh_keys": [MINE]}
    async with harness.running():
        await harness.ask("slice.create", **wanted, vms=[{"name": "a", **VM}])
        await harness.ask("vm.create", slice="demo", name="b", **VM)
        await harness.ask("slice.create", slice="other", gateway=False, vms=[{"name": "c", **VM}])
    mine, own = seeds["a"]
    assert mine == MINE
    assert own.startswith("ssh-ed25519 ")
    assert own.endswith(" ccf-demo")
    assert seeds["b"] == seeds["a"]
    (others,) = seeds["c"]
    assert others.split()[1] != own.split()[1]


async def test_the_private_half_is_sealed_in_the_row_and_nowhere_else(harness: Harness) -> None:
    secrets = SshKeys(harness.settings.slices.ssh_key_secrets)
    with capture_logs() as logs:
        async with harness.running():
            made = await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
            await harness.ask("vm.create", slice="demo", **VM)
            failed = await harness.ask(
                "slice.create", slice="bad", gateway=False, vms=[{**VM, "image": "nope"}]
            )
        async with harness.database.read() as transaction:
            row = await transaction.one(select(tables.slices))
            told = await history("demo", transaction)
        body = SliceCreate.model_validate({"slice": "new", "gateway": False})
        planned = await harness.records.preview(harness.handlers["slice.create"], body)
    assert row is not None
    private = secrets.open(row.ssh_sealed_key)
    held = await everything(harness)
    assert held.count(row.ssh_sealed_key) == 1
    said = json.dumps([made, failed, told, planned, await harness.said()]) + str(logs)
    assert row.ssh_sealed_key not in said
    for line in private.splitlines():
        assert line not in held + said


async def test_a_slice_that_goes_takes_its_key_along(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)
        async with harness.database.read() as transaction:
            sealed = await transaction.scalar(select(tables.slices.c.ssh_sealed_key))
        await harness.ask("slice.delete", slice="demo")
    assert sealed
    assert sealed not in await everything(harness)


async def test_without_a_secret_slices_have_no_key_of_their_own(
    harness: Harness, seeds: dict[str, tuple[str, ...]]
) -> None:
    settings = harness.settings.model_copy(update={"slices": Slices()})
    harness.handlers["slice.create"] = CreateSlice(settings)
    async with harness.running():
        await harness.ask(
            "slice.create", slice="demo", gateway=False, ssh_keys=[MINE], vms=[{"name": "a", **VM}]
        )
    assert seeds["a"] == (MINE,)
