"""The story of `image.import`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ccfd.handlers.imports import import_images
from ccfd.model.vm import ImageListing, Listing
from ccfd.requests.events import ImageImport
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import Steps, adapter, each, in_order

MOST_TOLD = 50
"""Ignored images that a result names; the log has all."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Which image is looked at; None: all."""

    name: str | None


class ImportImages(Handler[ImageImport, ImportPlan]):
    """Make the list of images that of the store."""

    event = "image.import"
    body = ImageImport
    plan = ImportPlan

    async def key(self, body: ImageImport, transaction: Transaction) -> str:
        """Return the list's key."""
        return "image"

    async def decide(self, body: ImageImport, transaction: Transaction) -> ImportPlan:
        """Choose nothing: the store is asked by a step."""
        return ImportPlan(body.name)

    def steps(self, plan: ImportPlan) -> Steps:
        """Ask the store."""
        return in_order(each("list-images", [ImageListing(name=plan.name)]))

    async def settle(
        self, plan: ImportPlan, values: Sequence[dict[str, Any] | None], transaction: Transaction
    ) -> dict[str, Any]:
        """Store what it has."""
        (told,) = values
        found: Listing = adapter(Listing).validate_python(told)
        changes = await import_images(found.images, transaction, only=plan.name)
        if not found.ignored:
            return changes
        return {**changes, "ignored": [asdict(one) for one in found.ignored[:MOST_TOLD]]}

    async def forget(
        self, plan: ImportPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave the list as it is."""
        return {}
