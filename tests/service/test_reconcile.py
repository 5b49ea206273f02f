"""The reconciler over a server's database: the same story as over the embedded one."""

from copy import copy

from sqlalchemy import update

from ccfd.store import tables
from tests.service.site import Site
from tests.unit.handlers.test_reconcile_story import Sweep
from tests.unit.handlers.test_slice_story import NOTHING, VM


async def test_losses_are_put_back_and_orphans_go(site: Site) -> None:
    world = site.world
    for name in ("demo", "other"):
        vms = [{"name": vm, **VM} for vm in "ab"]
        await site.ask("slice.create", slice=name, gateway=False, vms=vms)
    sweep = Sweep(site)
    before = copy(world.bridges), set(world.dhcp), copy(world.domains)
    assert (await sweep.apply())["repairs"] == []
    for lost in (world.bridges, world.owners, world.dhcp, world.namespaces, world.domains):
        lost.clear()
    assert len((await sweep.apply())["requests"]) == 2
    assert (world.bridges, set(world.dhcp), world.domains) == before
    assert (await sweep.apply())["repairs"] == []

    kept = copy(world.disks), copy(world.seeds), copy(world.definitions), copy(world.domains)
    await site.ask("slice.delete", slice="other")
    world.disks, world.seeds, world.definitions, world.domains = kept
    await sweep.apply()
    assert {machine.slice for machine in world.domains.values()} == {"demo"}

    await site.database.run(lambda tx: tx.execute(update(tables.slices).values(state="deleting")))
    await sweep.apply()
    assert world.leftovers() == {}
    assert await site.claims() == NOTHING
