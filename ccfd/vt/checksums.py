"""Which digest an image's checksum is: its length tells (docs/adr/0014)."""

import hashlib
import re

_BY_LENGTH = {64: "sha256", 96: "sha384", 128: "sha512"}
_DIGITS = re.compile(r"[0-9a-f]+")


def hasher(checksum: str) -> "hashlib._Hash":
    """Begin a digest that will be compared with *checksum*, hex digits of SHA-2."""
    return hashlib.new(_BY_LENGTH[len(checksum)])


def is_checksum(checksum: str, algorithm: str) -> bool:
    """Tell whether *checksum* is a digest that `hasher` knows, and of *algorithm*."""
    return _BY_LENGTH.get(len(checksum)) == algorithm and bool(_DIGITS.fullmatch(checksum))
