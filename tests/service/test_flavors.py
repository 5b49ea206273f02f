"""A flavor that is deleted while a VM of it is being decided takes the VM along."""

import asyncio

from ccfd.handlers import vm_choice
from ccfd.handlers.flavor_events import DeleteFlavorPlan
from ccfd.requests.events import FlavorName, VmSpec
from ccfd.store.database import Transaction
from tests.harness import Harness, lab_settings
from tests.twins import World
from tests.unit.handlers.test_slice_story import VM


async def test_a_vm_that_is_decided_before_the_flavor_goes_is_among_those_that_go(
    database_url: str,
) -> None:
    harness = Harness(lab_settings(database_url), World())
    await harness.prepare()
    async with harness.running():
        made = await harness.ask("slice.create", slice="demo", gateway=False)
    chosen, commit = asyncio.Event(), asyncio.Event()

    async def choose(transaction: Transaction) -> str:
        spec = VmSpec.model_validate(VM)
        vni = made["result"]["vni"]
        (vm,) = await vm_choice.choose("demo", "default", vni, [spec], transaction, policy="spread")
        chosen.set()
        await commit.wait()
        return vm.id

    handler = harness.handlers["flavor.delete"]
    async with asyncio.TaskGroup() as group:
        choosing = group.create_task(harness.database.run(choose))
        await chosen.wait()
        deleting = group.create_task(
            harness.database.run(lambda tx: handler.decide(FlavorName(flavor="tiny"), tx))
        )
        # Long enough to decide, if it did not wait.
        await asyncio.wait([deleting], timeout=0.5)
        commit.set()
    plan = deleting.result()
    assert isinstance(plan, DeleteFlavorPlan)
    assert [doomed.vm for doomed in plan.vms] == [choosing.result()]
    await harness.database.close()
