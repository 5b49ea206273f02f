"""A real Glance, and a real Keystone, are what the fake ones of the unit tier pretend to be."""

import os
import shutil
from pathlib import Path

import pytest

from ccfd.errors import Refused, Transient
from ccfd.model.vm import Image, ImageListing
from ccfd.settings import Keystone as KeystoneSettings
from ccfd.vt import glance as client
from ccfd.vt.glance_images import GlanceImages
from ccfd.vt.images import Images
from ccfd.vt.openstack import Http
from ccfd.vt.tokens import FixedToken, KeystoneTokens
from ccfd.workflow.steps import Effect, Effects
from tests.glance.servers import PROJECT, USER, Glance, Keystone
from tests.harness import Harness, lab_settings
from tests.twins import World


async def only(store: GlanceImages) -> Image:
    (image,) = (await store.list()).images
    return image


async def test_an_image_comes_whole_and_once(
    glance: Glance, store: GlanceImages, qcow2: bytes
) -> None:
    identity = glance.upload("tiny", qcow2)
    image = await only(store)
    assert (image.id, image.name, image.size) == (identity, "tiny", len(qcow2))
    assert (len(image.checksum), image.virtual_size) == (128, 48 << 20)
    path = await store.open_path(image)
    assert path.read_bytes() == qcow2
    glance.ask("DELETE", f"/{identity}")
    assert await store.open_path(image) == path


async def test_pages_are_read_to_the_last(
    glance: Glance, store: GlanceImages, qcow2: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    for number in range(5):
        glance.upload(f"image-{number}", qcow2)
    assert [one.name for one in (await store.list()).images] == [
        f"image-{number}" for number in range(5)
    ]


async def test_the_newest_of_a_name_is_taken_and_the_useless_left_out(
    glance: Glance, store: GlanceImages, qcow2: bytes
) -> None:
    glance.upload("queued", None)
    glance.upload("Big Image", qcow2)
    glance.upload("raw", qcow2, disk_format="raw")
    lost = glance.upload("lost", qcow2)
    (glance.store / lost).unlink()
    for _ in range(2):
        newest = glance.upload("tiny", qcow2)
    found = await store.list()
    assert [one.id for one in found.images] == [newest]
    # What is queued is not in a list of active images.
    assert sorted(one.name for one in found.ignored) == ["Big Image", "lost", "raw", "tiny"]


async def test_a_transfer_goes_on_behind_what_there_is(
    glance: Glance, store: GlanceImages, qcow2: bytes, tmp_path: Path
) -> None:
    glance.upload("tiny", qcow2)
    image = await only(store)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{image.checksum}.part").write_bytes(qcow2[:100_000])
    asked: list[int] = []
    real = client.Glance.data

    def data(self: client.Glance, identity: str, start: int = 0, end: int | None = None) -> object:
        asked.append(start)
        return real(self, identity, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.Glance, "data", data)
        assert (await store.open_path(image)).read_bytes() == qcow2
    assert asked == [100_000]


async def test_a_file_that_was_changed_is_never_kept(
    glance: Glance, store: GlanceImages, qcow2: bytes, tmp_path: Path
) -> None:
    identity = glance.upload("tiny", qcow2)
    image = await only(store)
    (glance.store / identity).write_bytes(qcow2[:-1] + b"?")
    with pytest.raises(Refused) as refused:
        await store.open_path(image)
    assert refused.value.code == "image_corrupt"
    assert not (tmp_path / "cache" / image.checksum).exists()


async def test_a_file_that_was_cut_short_is_never_kept(
    glance: Glance, store: GlanceImages, qcow2: bytes, tmp_path: Path
) -> None:
    identity = glance.upload("tiny", qcow2)
    image = await only(store)
    os.truncate(glance.store / identity, 150_000)
    with pytest.raises((Refused, Transient)):
        await store.open_path(image)
    assert not (tmp_path / "cache" / image.checksum).exists()
    (glance.store / identity).write_bytes(qcow2)
    assert (await store.open_path(image)).read_bytes() == qcow2


@pytest.mark.parametrize("what", ["deactivated", "deleted", "lost"])
async def test_an_image_that_went_is_not_found(
    glance: Glance, store: GlanceImages, qcow2: bytes, what: str
) -> None:
    identity = glance.upload("tiny", qcow2)
    image = await only(store)
    if what == "deactivated":
        glance.ask("POST", f"/{identity}/actions/deactivate")
    elif what == "deleted":
        glance.ask("DELETE", f"/{identity}")
    else:
        (glance.store / identity).unlink()
    with pytest.raises(Refused) as refused:
        await store.open_path(image)
    assert refused.value.code == "image_not_found"
    assert "tiny" in refused.value.message or identity in refused.value.message


async def test_a_token_that_was_revoked_is_replaced(
    glance: Glance, keystone: Keystone, store: GlanceImages, tokens: KeystoneTokens, qcow2: bytes
) -> None:
    glance.upload("tiny", qcow2)
    # Before Glance has seen it: it believes its cache for minutes.
    first = await tokens.token()
    keystone.revoke(first)
    assert [image.name for image in (await store.list()).images] == ["tiny"]
    assert await tokens.token() != first


async def test_a_fixed_token_does_and_a_wrong_one_is_told(
    glance: Glance, keystone: Keystone, qcow2: bytes
) -> None:
    glance.upload("tiny", qcow2)
    for token, good in ((keystone.token(USER, PROJECT), True), ("nonsense", False)):
        api = client.Glance(glance.url, FixedToken(token), Http("Glance"))
        try:
            if good:
                assert [record.name for record in await api.images()] == ["tiny"]
            else:
                with pytest.raises(Refused, match="does not take our token"):
                    await api.images()
        finally:
            await api.close()


async def test_a_wrong_password_is_told(keystone: Keystone, glance: Glance) -> None:
    wrong = KeystoneSettings(url=keystone.url, username=USER, password="no", project=PROJECT)
    tokens = KeystoneTokens(wrong, Http("Keystone"))
    with pytest.raises(Refused, match="401"):
        await tokens.token()
    await tokens.close()


async def test_an_import_follows_glance(
    glance: Glance, store: GlanceImages, qcow2: bytes, tmp_path: Path, empty_database: Path
) -> None:
    class Site(World):
        def effects(self) -> Effects:
            listing = Images({}, store, "/pool").list
            return {**super().effects(), "list-images": Effect(ImageListing, listing, None)}

    database = tmp_path / "ccfd.db"
    shutil.copy(empty_database, database)
    harness = Harness(lab_settings(f"sqlite+aiosqlite:///{database}"), Site())
    try:
        await harness.prepare()
        async with harness.running():
            glance.upload("Big Image", qcow2)
            first = glance.upload("nox", qcow2)
            done = await harness.ask("image.import")
            changes = {key: done["result"][key] for key in ("imported", "updated", "removed")}
            assert changes == {"imported": ["nox"], "updated": [], "removed": ["tiny"]}
            assert [one["name"] for one in done["result"]["ignored"]] == ["Big Image"]
            second = glance.upload("nox", qcow2)
            done = await harness.ask("image.import", name="nox")
            assert done["result"]["updated"] == ["nox"]
            for identity in (first, second):
                glance.ask("DELETE", f"/{identity}")
            done = await harness.ask("image.import", name="nox")
            assert done["error"]["code"] == "image_not_found"
            done = await harness.ask("image.import")
            assert done["result"]["removed"] == ["nox"]
    finally:
        await harness.database.close()
