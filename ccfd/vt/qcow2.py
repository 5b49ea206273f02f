"""Whether a file is a base image that can stand alone, and how large its disk is.

The header as in QEMU's docs/interop/qcow2.txt; numbers are big-endian.
"""

import struct

from ccfd.errors import Refused

HEADER = struct.Struct(">4sIQIIQ")
"""magic, version, backing file's offset and length, cluster bits, size."""
_FEATURES_AT = 72
_EXTERNAL_DATA = 1 << 2
HEADER_LENGTH = 104


def virtual_size(header: bytes) -> int:
    """Return the size in bytes of the disk that the file starting with *header* describes.

    Raises `Refused` (`image_corrupt`) for anything but a qcow2 file that needs no other file: a
    backing or data file would be opened by QEMU on the host, whatever its name.
    """
    if len(header) < 72 or header[:4] != b"QFI\xfb":
        raise Refused("image_corrupt", "it is not a qcow2 file")
    _, version, backing, _, _, size = HEADER.unpack_from(header)
    if version not in {2, 3}:
        raise Refused("image_corrupt", f"it is qcow2 version {version}, not 2 or 3")
    if backing:
        raise Refused("image_corrupt", "it has a backing file: flatten it with qemu-img convert")
    if version == 3:
        if len(header) < HEADER_LENGTH:
            raise Refused("image_corrupt", "its header is cut short")
        (features,) = struct.unpack_from(">Q", header, _FEATURES_AT)
        if features & _EXTERNAL_DATA:
            raise Refused("image_corrupt", "its data is in another file: use qemu-img convert")
    if size == 0:
        raise Refused("image_corrupt", "its disk has no size")
    return int(size)
