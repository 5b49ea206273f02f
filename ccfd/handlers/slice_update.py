"""The story of `slice.update`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update

from ccfd.errors import Refused
from ccfd.handlers import controller_choice
from ccfd.handlers.layout import Layout
from ccfd.handlers.slice_events import document, planned_slice
from ccfd.model.network import BridgeChange
from ccfd.model.slice import PlannedSlice
from ccfd.requests.events import SliceUpdate
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Done, Handler
from ccfd.workflow.steps import Steps, each, in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    """The slice as it was and as it shall be."""

    before: PlannedSlice
    after: PlannedSlice


class UpdateSlice(Handler[SliceUpdate, UpdatePlan]):
    """Change a slice's description, its end, or the controller that its switches dial.

    What is only told of the slice is changed at once, also while a host is away; its bridges
    learn of it by the next sweep.
    """

    event = "slice.update"
    body = SliceUpdate
    plan = UpdatePlan

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout(settings)

    async def key(self, body: SliceUpdate, transaction: Transaction) -> str:
        """Return the slice's key."""
        return f"slice:{body.slice}"

    async def decide(self, body: SliceUpdate, transaction: Transaction) -> UpdatePlan | Done:
        """Decide what the slice shall be."""
        row = await transaction.one(
            select(tables.slices).where(tables.slices.c.name == body.slice).with_for_update()
        )
        if row is None:
            raise Refused("slice_not_found", f"there is no slice {body.slice}")
        if row.state not in ("active", "stopped"):
            raise Refused("invalid_state", f"the slice {body.slice} is {row.state}")
        before = await planned_slice(row, transaction)
        after = self._changed(before, body, transaction)
        if after.controller == before.controller:
            await _store(after, transaction)
            return Done(await document(body.slice, transaction))
        return UpdatePlan(before=before, after=after)

    def _changed(
        self, before: PlannedSlice, body: SliceUpdate, transaction: Transaction
    ) -> PlannedSlice:
        after = before
        if body.description is not None:
            after = replace(after, description=body.description)
        if body.expires_in is not None:
            after = replace(after, expires_at=transaction.now + timedelta(seconds=body.expires_in))
        if "controller" in body.model_fields_set:
            wanted = controller_choice.of_tenant(body.controller, self._settings)
            after = replace(after, controller=wanted)
        return after

    def steps(self, plan: UpdatePlan) -> Steps:
        """List what will happen, in order."""
        before, after = self._layout.bridges(plan.before), self._layout.bridges(plan.after)
        pairs = zip(before, after, strict=True)
        return in_order(
            each("change-bridge", [BridgeChange(before=old, after=new) for old, new in pairs])
        )

    async def settle(
        self,
        plan: UpdatePlan,
        values: Sequence[dict[str, Any] | None],
        transaction: Transaction,
    ) -> dict[str, Any]:
        """Store what the slice is now."""
        await _store(plan.after, transaction)
        return await document(plan.after.name, transaction)

    async def forget(
        self, plan: UpdatePlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave the slice as it was."""
        return {}


async def _store(after: PlannedSlice, transaction: Transaction) -> None:
    """Write what can be changed; a new end is announced anew."""
    slices = tables.slices
    row = await transaction.one(select(slices).where(slices.c.name == after.name))
    assert row is not None
    values: dict[str, Any] = {
        "description": after.description,
        "controller": controller_choice.to_row(after.controller),
        "expires_at": after.expires_at,
    }
    if row.expires_at != after.expires_at:
        values["expiry_announced"] = False
    await transaction.execute(update(slices).where(slices.c.name == after.name).values(values))
