"""The story of `image.import`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccfd.handlers.imports import import_images
from ccfd.model.vm import Image, ImageListing
from ccfd.requests.events import ImageImport
from ccfd.store.database import Transaction
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import Steps, adapter, each, in_order


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
        found: tuple[Image, ...] = adapter(tuple[Image, ...]).validate_python(
            (told or {})["images"]
        )
        return await import_images(found, transaction, only=plan.name)

    async def forget(
        self, plan: ImportPlan, error: dict[str, Any], transaction: Transaction
    ) -> dict[str, Any]:
        """Leave the list as it is."""
        return {}
