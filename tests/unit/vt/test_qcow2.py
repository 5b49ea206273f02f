"""A base image is a qcow2 file that needs no other file."""

import struct

import pytest

from ccfd.errors import Refused
from ccfd.vt import qcow2


def header(
    *,
    magic: bytes = b"QFI\xfb",
    version: int = 3,
    backing: int = 0,
    size: int = 1 << 30,
    features: int = 0,
) -> bytes:
    start = struct.pack(">4sIQIIQ", magic, version, backing, 0, 16, size)
    return start.ljust(72, b"\0") + struct.pack(">Q", features).ljust(32, b"\0")


@pytest.mark.parametrize("version", [2, 3])
def test_the_disks_size_is_read(version: int) -> None:
    assert qcow2.virtual_size(header(version=version, size=5 << 30)) == 5 << 30


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        header(magic=b"\x7fELF"),
        header(version=1),
        header(backing=0x200),
        header(features=1 << 2),
        header(size=0),
        header()[:80],
    ],
    ids=["empty", "magic", "version", "backing file", "external data", "no size", "cut short"],
)
def test_anything_else_is_refused(bad: bytes) -> None:
    with pytest.raises(Refused) as refused:
        qcow2.virtual_size(bad)
    assert refused.value.code == "image_corrupt"
