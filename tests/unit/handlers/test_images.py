"""The list of images follows the store."""

from dataclasses import replace

from sqlalchemy import select

from ccfd.model.vm import IgnoredImage
from ccfd.store import tables
from tests.harness import Harness
from tests.twins import TINY

OTHER = replace(TINY, name="other", checksum="6" * 64)


async def names(harness: Harness) -> dict[str, str]:
    rows = await harness.database.run(lambda tx: tx.all(select(tables.image)))
    return {row.name: row.checksum[0] for row in rows}


async def test_the_list_becomes_that_of_the_store(harness: Harness) -> None:
    async with harness.running():
        harness.world.store = (replace(TINY, checksum="7" * 64), OTHER)
        done = await harness.ask("image.import")
        assert done["result"] == {"imported": ["other"], "updated": ["tiny"], "removed": []}
        assert await names(harness) == {"tiny": "7", "other": "6"}
        harness.world.store = (OTHER,)
        done = await harness.ask("image.import")
        assert done["result"] == {"imported": [], "updated": [], "removed": ["tiny"]}
        done = await harness.ask("image.import")
        assert done["result"] == {"imported": [], "updated": [], "removed": []}


async def test_one_image_alone(harness: Harness) -> None:
    async with harness.running():
        harness.world.store = (OTHER,)
        done = await harness.ask("image.import", name="other")
        assert done["result"] == {"imported": ["other"], "updated": [], "removed": []}
        assert await names(harness) == {"tiny": "5", "other": "6"}
        refused = await harness.ask("image.import", name="nope")
        assert (refused["error"]["code"], refused["compensated"]) == ("image_not_found", True)


async def test_what_cannot_be_used_is_named(harness: Harness) -> None:
    async with harness.running():
        harness.world.useless = (IgnoredImage(name="Big Image", why="its name"),)
        done = await harness.ask("image.import")
        assert done["result"]["ignored"] == [{"name": "Big Image", "why": "its name"}]


async def test_the_same_bytes_under_a_new_id_are_an_update(harness: Harness) -> None:
    async with harness.running():
        harness.world.store = (replace(TINY, id="another"),)
        done = await harness.ask("image.import")
        assert done["result"] == {"imported": [], "updated": ["tiny"], "removed": []}
