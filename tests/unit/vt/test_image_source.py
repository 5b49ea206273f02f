"""A directory of qcow2 files is a store of images."""

import hashlib
import os
from pathlib import Path

import pytest

from ccfd.errors import Refused
from ccfd.model.vm import ImageListing
from ccfd.vt.image_source import DirectoryImages
from ccfd.vt.images import Images
from tests.unit.vt.test_qcow2 import header


def put(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    draft = directory / "draft"
    draft.write_bytes(content)
    draft.rename(path)
    return path


async def test_a_file_is_the_image_of_its_name(tmp_path: Path) -> None:
    content = header(size=1 << 30) + b"data"
    put(tmp_path, "tiny.qcow2", content)
    (image,) = (await DirectoryImages(tmp_path).list()).images
    assert image.name == "tiny"
    assert image.checksum == hashlib.sha256(content).hexdigest()
    assert (image.size, image.virtual_size) == (len(content), 1 << 30)


async def test_what_cannot_be_an_image_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "Bad_Name.qcow2", header())
    put(tmp_path, "raw.qcow2", b"not qcow2")
    put(tmp_path, "other.img", header())
    put(tmp_path, "good.qcow2", header())
    found = await DirectoryImages(tmp_path).list()
    assert [image.name for image in found.images] == ["good"]
    assert [(one.name, one.why) for one in found.ignored] == [
        ("Bad_Name", "its name is not an image's name"),
        ("raw", "it is not a qcow2 file"),
    ]


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        await DirectoryImages(tmp_path / "nowhere").list()
    assert refused.value.code == "image_not_found"


async def test_a_file_is_read_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    real = hashlib.sha256

    def counted(data: bytes) -> object:
        nonlocal read
        read += 1
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    path = put(tmp_path, "tiny.qcow2", header() + b"1")
    images = DirectoryImages(tmp_path)
    (first,) = (await images.list()).images
    assert (await images.list()).images == (first,)
    assert await images.open_path(first) == path
    assert read == 1
    put(tmp_path, "tiny.qcow2", header() + b"2")
    (second,) = (await images.list()).images
    assert second.checksum != first.checksum
    assert read == 2


async def test_an_image_that_was_replaced_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    put(tmp_path, "tiny.qcow2", header() + b"1")
    images = DirectoryImages(tmp_path)
    (image,) = (await images.list()).images
    put(tmp_path, "tiny.qcow2", header() + b"2")
    with pytest.raises(Refused) as refused:
        await images.open_path(image)
    assert refused.value.code == "image_corrupt"


async def test_an_image_whose_file_went_is_not_found(tmp_path: Path) -> None:
    path = put(tmp_path, "tiny.qcow2", header())
    images = DirectoryImages(tmp_path)
    (image,) = (await images.list()).images
    os.unlink(path)
    with pytest.raises(Refused) as refused:
        await images.open_path(image)
    assert refused.value.code == "image_not_found"


async def test_the_step_lists_all_or_one_by_name(tmp_path: Path) -> None:
    put(tmp_path, "one.qcow2", header())
    put(tmp_path, "two.qcow2", header(size=1 << 30))
    images = Images({}, DirectoryImages(tmp_path), "/pool")
    told = await images.list(ImageListing())
    assert [image["name"] for image in told["images"]] == ["one", "two"]
    told = await images.list(ImageListing(name="two"))
    assert [image["virtual_size"] for image in told["images"]] == [1 << 30]
    with pytest.raises(Refused, match="no image 'three'"):
        await images.list(ImageListing(name="three"))
