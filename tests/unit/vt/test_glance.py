"""Images come from a Glance whole and true, whatever it and the network do meanwhile."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from ccfd.errors import Refused, Transient
from ccfd.model.vm import Image
from ccfd.settings import Keystone
from ccfd.vt import glance_images
from ccfd.vt.glance import Glance
from ccfd.vt.glance_images import GlanceImages
from ccfd.vt.image_cache import ImageCache
from ccfd.vt.openstack import Http
from ccfd.vt.tokens import FixedToken, KeystoneTokens, Tokens
from tests.unit.vt.fake_glance import CONTENT, Fake, FakeGlance
from tests.unit.vt.test_qcow2 import header

SHA512 = hashlib.sha512(CONTENT).hexdigest()
Opened = Callable[..., GlanceImages]


@pytest.fixture
async def glance() -> AsyncIterator[FakeGlance]:
    async with FakeGlance().running() as server:
        yield server


@pytest.fixture
async def opened(glance: FakeGlance, tmp_path: Path) -> AsyncIterator[Opened]:
    """Make stores of images, as daemons one after another would, over one cache."""
    stores = []

    def make(tokens: Tokens | None = None, within: float = 10.0) -> GlanceImages:
        http = Http("Glance", answer_within=within)
        api = Glance(glance.url, tokens or FixedToken(None), http)
        stores.append(GlanceImages(api, ImageCache(tmp_path / "cache")))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def store(opened: Opened) -> GlanceImages:
    return opened()


async def only(store: GlanceImages) -> Image:
    (image,) = (await store.list()).images
    return image


def kept(tmp_path: Path) -> set[str]:
    return {path.name.removeprefix(SHA512) or "whole" for path in (tmp_path / "cache").iterdir()}


def fetches(glance: FakeGlance) -> list[str]:
    """Say which parts of the file were asked for, without the look at its header."""
    parts = [path.partition("/file")[2] for path in glance.asked if "/file" in path]
    return [part for part in parts if part != "@0-103"]


# --- the list -------------------------------------------------------------------------------


async def test_an_image_is_known_by_the_digest_and_id_that_glance_gives(
    store: GlanceImages,
) -> None:
    assert await only(store) == Image(
        name="tiny", id="i1", checksum=SHA512, size=len(CONTENT), virtual_size=48 << 20
    )


async def test_a_list_of_many_pages_is_read_whole(glance: FakeGlance, store: GlanceImages) -> None:
    glance.images = {f"i{n}": Fake(name=f"image-{n}") for n in range(7)}
    glance.page = 2
    assert len((await store.list()).images) == 7


async def test_a_list_begins_again_when_the_image_it_had_come_to_is_deleted(
    glance: FakeGlance, store: GlanceImages
) -> None:
    glance.images = {f"i{n}": Fake(name=f"image-{n}") for n in range(5)}
    glance.page = 2
    glance.deletes["page after i1"] = "i1"
    assert [image.id for image in (await store.list()).images] == ["i0", "i2", "i3", "i4"]


async def test_only_the_header_is_read_and_only_once(
    glance: FakeGlance, store: GlanceImages
) -> None:
    await store.list()
    await store.list()
    assert glance.asked == ["/v2/images", "/v2/images/i1/file@0-103", "/v2/images"]


async def test_of_one_name_the_newest_is_taken(glance: FakeGlance, store: GlanceImages) -> None:
    glance.images = {"old": Fake(day=1), "new": Fake(day=3), "mid": Fake(day=2)}
    found = await store.list()
    assert [image.id for image in found.images] == ["new"]
    assert [one.why for one in found.ignored] == [
        "mid is older than new of the same name",
        "old is older than new of the same name",
    ]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Fake(name="Ubuntu 24.04"), "its name is not an image's name"),
        (Fake(told={"status": "queued", "size": None}), "it is queued"),
        (Fake(told={"disk_format": "raw"}), "it is raw in bare, not qcow2 in bare"),
        (Fake(told={"container_format": "ova"}), "it is qcow2 in ova, not qcow2 in bare"),
        (Fake(told={"os_hash_algo": "md5"}), "its hash (md5) is none of SHA-2"),
        (Fake(told={"os_hash_value": None}), "its hash (sha512) is none of SHA-2"),
        (Fake(told={"size": 0}), "it has no data"),
        (Fake(status=204), "it has no data for this image"),
        (Fake(status=403), "the image is deactivated, or not for us: reactivate it, or import"),
        (Fake(content=b"garbage"), "it is not a qcow2 file"),
        (Fake(content=header(backing=0x200)), "it has a backing file"),
    ],
)
async def test_what_cannot_be_used_is_left_out_and_told(
    glance: FakeGlance, store: GlanceImages, image: Fake, why: str
) -> None:
    glance.images = {"bad": image, "good": Fake(name="good")}
    found = await store.list()
    assert [one.name for one in found.images] == ["good"]
    assert [one.name for one in found.ignored] == [image.name]
    assert why in found.ignored[0].why


async def test_one_image_is_asked_for_by_name(glance: FakeGlance, store: GlanceImages) -> None:
    glance.images["i2"] = Fake(name="other")
    assert [image.id for image in (await store.list("other")).images] == ["i2"]


# --- bytes ----------------------------------------------------------------------------------


async def test_an_image_comes_once_however_many_ask(
    glance: FakeGlance, store: GlanceImages, opened: Opened, tmp_path: Path
) -> None:
    image = await only(store)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.open_path(image)) for _ in range(4)]
    assert {task.result().read_bytes() for task in tasks} == {CONTENT}
    assert (await opened().open_path(image)).read_bytes() == CONTENT
    assert fetches(glance) == [""]
    assert kept(tmp_path) == {"whole"}


async def test_a_transfer_that_breaks_off_goes_on_where_it_was(
    glance: FakeGlance, store: GlanceImages
) -> None:
    image = await only(store)
    glance.breaks = [1000, 5000]
    assert (await store.open_path(image)).read_bytes() == CONTENT
    assert fetches(glance) == ["", "@1000-", "@6000-"]


async def test_the_next_daemon_goes_on_with_what_the_last_one_had(
    glance: FakeGlance, store: GlanceImages, opened: Opened, tmp_path: Path
) -> None:
    image = await only(store)
    glance.breaks = [1000, 0]
    with pytest.raises(Transient, match="breaks off after 1000 of"):
        await store.open_path(image)
    assert kept(tmp_path) == {".part"}
    assert (await opened().open_path(image)).read_bytes() == CONTENT
    assert fetches(glance)[-1] == "@1000-"


async def test_a_glance_that_gives_no_parts_begins_anew(
    glance: FakeGlance, store: GlanceImages
) -> None:
    image = await only(store)
    glance.resumes, glance.breaks = False, [1000]
    assert (await store.open_path(image)).read_bytes() == CONTENT


@pytest.mark.parametrize("draft", [b"?" * 1000, b"?" * len(CONTENT), b"?" * (2 * len(CONTENT))])
async def test_a_draft_that_is_of_no_use_is_thrown_away(
    store: GlanceImages, tmp_path: Path, draft: bytes
) -> None:
    image = await only(store)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{SHA512}.part").write_bytes(draft)
    assert (await store.open_path(image)).read_bytes() == CONTENT
    assert kept(tmp_path) == {"whole"}


async def test_bytes_that_are_not_the_images_are_never_kept(
    glance: FakeGlance, store: GlanceImages, tmp_path: Path
) -> None:
    image = await only(store)
    document = glance.images["i1"].document("i1")
    glance.images["i1"] = Fake(content=CONTENT[:-1] + b"?", told=document)
    with pytest.raises(Refused, match="not those of its checksum") as refused:
        await store.open_path(image)
    assert refused.value.code == "image_corrupt"
    assert (tmp_path / "cache" / f"{SHA512}.part").stat().st_size == 0
    glance.images["i1"] = Fake()
    assert (await store.open_path(image)).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-500], CONTENT + b"more"], ids=["less", "more"])
async def test_another_length_than_told_is_corrupt(
    glance: FakeGlance, store: GlanceImages, wrong: bytes
) -> None:
    image = await only(store)
    glance.images["i1"] = Fake(content=wrong, told=glance.images["i1"].document("i1"))
    with pytest.raises(Refused) as refused:
        await store.open_path(image)
    assert refused.value.code == "image_corrupt"


async def test_a_disk_of_another_size_than_its_header_said_is_corrupt(
    store: GlanceImages,
) -> None:
    image = replace(await only(store), virtual_size=1 << 30)
    with pytest.raises(Refused, match="its disk has another size"):
        await store.open_path(image)


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (None, "404"),
        (Fake(told={"status": "deactivated"}), "it is deactivated"),
        (Fake(content=header()), "it is another one now"),
        (Fake(status=403), "deactivated"),
        (Fake(status=204), "no data"),
    ],
    ids=["deleted", "deactivated", "replaced", "forbidden", "no data"],
)
async def test_an_image_that_went_is_not_found(
    glance: FakeGlance, store: GlanceImages, then: Fake | None, why: str
) -> None:
    image = await only(store)
    glance.images = {} if then is None else {"i1": then}
    with pytest.raises(Refused, match=why) as refused:
        await store.open_path(image)
    assert refused.value.code == "image_not_found"


async def test_an_image_that_is_deleted_while_it_comes_is_not_kept(
    glance: FakeGlance, store: GlanceImages, tmp_path: Path
) -> None:
    image = await only(store)
    glance.deletes["/v2/images/i1/file"] = "i1"
    with pytest.raises(Refused, match="404"):
        await store.open_path(image)
    assert kept(tmp_path) == {".part"}


async def test_a_kept_image_that_was_damaged_comes_again(
    glance: FakeGlance, store: GlanceImages, opened: Opened
) -> None:
    image = await only(store)
    path = await store.open_path(image)
    path.write_bytes(b"damaged")
    for again in (store, opened()):
        assert (await again.open_path(image)).read_bytes() == CONTENT


async def test_what_had_no_use_is_removed_from_the_cache(
    store: GlanceImages, tmp_path: Path
) -> None:
    await store.prune(0)
    image = await only(store)
    await store.open_path(image)
    (tmp_path / "cache" / "somebody else's").touch()
    await store.prune(3600)
    assert kept(tmp_path) == {"whole", "somebody else's"}
    await store.prune(-3600)
    assert kept(tmp_path) == {"somebody else's"}


async def test_two_daemons_do_not_write_one_draft(
    store: GlanceImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await only(store)
    monkeypatch.setattr(glance_images, "LOOK_EVERY", 0.001)
    draft = ImageCache(tmp_path / "cache").draft(image)
    assert draft is not None
    with pytest.raises(Transient, match="another ccfd"):
        await store.open_path(image)
    draft.write(CONTENT)
    draft.keep()
    # It has the name and is still held.
    assert (await store.open_path(image)).read_bytes() == CONTENT
    draft.close()
    assert kept(tmp_path) == {"whole"}


# --- away, and who are you ------------------------------------------------------------------


@pytest.mark.parametrize("ails", [web.HTTPServiceUnavailable, web.HTTPTooManyRequests])
async def test_a_glance_that_asks_to_come_again_is_asked_again(
    glance: FakeGlance, store: GlanceImages, ails: type[web.HTTPException]
) -> None:
    glance.ails = ails
    with pytest.raises(Transient, match=f"answers {ails.status_code}: Oh Not now"):
        await store.list()
    glance.ails = None
    assert (await store.list()).images


async def test_a_glance_that_is_not_there_may_come_back(opened: Opened, glance: FakeGlance) -> None:
    glance.url = "http://127.0.0.1:1"
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        await opened().list()


async def test_a_glance_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(
        lambda _reader, writer: writers.append(writer), "127.0.0.1", 0
    )
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        http = Http("Glance", answer_within=0.05)
        glance = Glance(f"http://127.0.0.1:{port}", FixedToken(None), http)
        with pytest.raises(Transient, match=r"no answer within 0\.05 s") as given_up:
            await glance.images()
        assert given_up.value.code == "timeout"
        await glance.close()
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_a_token_that_is_not_taken_is_told(glance: FakeGlance, opened: Opened) -> None:
    glance.takes = {"right"}
    assert (await opened(FixedToken("right")).list()).images
    with pytest.raises(Refused, match=r"does not take our token: look at images\.token"):
        await opened(FixedToken("wrong")).list()


def keystone(glance: FakeGlance, password: str = "secret") -> KeystoneTokens:
    config = Keystone(url=glance.url, username="ccfd", password=password, project="service")
    return KeystoneTokens(config, Http("Keystone"))


async def test_keystone_is_asked_once_for_many_calls(glance: FakeGlance, opened: Opened) -> None:
    glance.takes = {"token-1"}
    store = opened(keystone(glance))
    await store.open_path(await only(store))
    assert glance.given == 1


async def test_a_token_that_has_ended_is_replaced(glance: FakeGlance, opened: Opened) -> None:
    glance.takes = {"token-1"}
    store = opened(keystone(glance))
    image = await only(store)
    glance.takes = {"token-2"}
    assert (await store.open_path(image)).read_bytes() == CONTENT
    assert glance.given == 2


async def test_a_token_is_replaced_before_it_ends(glance: FakeGlance, opened: Opened) -> None:
    glance.takes, glance.lifetime = {"token-1", "token-2"}, 0
    store = opened(keystone(glance))
    await store.list()
    assert glance.given == 2


async def test_new_tokens_that_are_not_taken_either_are_told(
    glance: FakeGlance, opened: Opened
) -> None:
    glance.takes = set()
    with pytest.raises(Refused, match="does not take our token"):
        await opened(keystone(glance)).list()
    assert glance.given == 2


async def test_a_wrong_password_is_told(glance: FakeGlance, opened: Opened) -> None:
    with pytest.raises(Refused, match=r"Wrong password.*look at \[keystone") as refused:
        await opened(keystone(glance, "wrong")).list()
    assert "wrong" not in refused.value.message.replace("Wrong", "")
