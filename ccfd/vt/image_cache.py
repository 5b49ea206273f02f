"""Where images from a distant store are kept on this machine: whole and true, or as a draft.

A file called by its checksum has been read and compared with it. What is still coming is called
`<checksum>.part`; it stays when a transfer breaks off, and the next one goes on behind it. All of
this blocks: it belongs in a thread.
"""

import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import structlog

from ccfd.errors import Refused
from ccfd.model.vm import Image
from ccfd.vt import checksums, qcow2

log = structlog.get_logger()

_OURS = re.compile(r"[0-9a-f]{64,128}(\.part)?")
_READ = 1 << 20


class ImageCache:
    """A directory of images."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._true: dict[str, tuple[int, int, int]] = {}

    def find(self, image: Image) -> Path | None:
        """Return *image*'s file, if it is there and true; it counts as used from now on."""
        path = self._directory / image.checksum
        with _told(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            facts = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._true.get(image.checksum) != facts:
                digest = checksums.hasher(image.checksum)
                with path.open("rb") as file:
                    _read_into(digest, file.fileno())
                if digest.hexdigest() != image.checksum:
                    log.error("a kept image was damaged: it is removed", path=str(path))
                    path.unlink(missing_ok=True)
                    return None
                self._true[image.checksum] = facts
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        return path

    def draft(self, image: Image) -> "Draft | None":
        """Go on with *image*'s draft, or begin it; None while another ccfd is at it."""
        path = self._directory / f"{image.checksum}.part"
        with _told(path):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
            if _is_mine(file, path):
                return Draft(image, path, file)
            file.close()
            return None

    def prune(self, before: float) -> list[str]:
        """Remove what was last used or written before that time (Unix seconds); name it."""
        removed = []
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                status = path.stat()
                if _OURS.fullmatch(path.name) and max(status.st_atime, status.st_mtime) < before:
                    path.unlink(missing_ok=True)
                    removed.append(path.name)
        return removed


class Draft:
    """A file that an image is written into, by one process at a time.

    Its calls exclude each other: one whose caller was cancelled may still run in its thread.
    """

    def __init__(self, image: Image, path: Path, file: FileIO) -> None:
        self._image = image
        self._path = path
        self._lock = threading.Lock()
        self._file = file
        self._digest = checksums.hasher(image.checksum)
        self.length = _read_into(self._digest, self._file.fileno())
        """Bytes that are there."""

    def write(self, chunk: bytes) -> None:
        """Add *chunk*. Raises `Refused` (`image_corrupt`) when it is more than the image has."""
        if self.length + len(chunk) > self._image.size:
            raise Refused(
                "image_corrupt", f"there is more of image {self._image.name} than its size"
            )
        with self._lock, _told(self._path):
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            self._digest.update(chunk)
            self.length += len(chunk)

    def begin_anew(self) -> None:
        """Throw away what is there."""
        with self._lock, _told(self._path):
            self._file.truncate(0)
            self._digest = checksums.hasher(self._image.checksum)
            self.length = 0

    def fault(self) -> str | None:
        """Say what is wrong with the bytes, now that all have come; None: they are the image's."""
        if self._digest.hexdigest() != self._image.checksum:
            return "its bytes are not those of its checksum"
        with self._lock, _told(self._path):
            header = os.pread(self._file.fileno(), qcow2.HEADER_LENGTH, 0)
        try:
            size = qcow2.virtual_size(header)
        except Refused as exc:
            return exc.message
        return None if size == self._image.virtual_size else "its disk has another size"

    def keep(self) -> None:
        """Give the file its name, with all that it holds on the disk."""
        with self._lock, _told(self._path):
            os.fsync(self._file.fileno())
            self._path.rename(self._path.with_suffix(""))
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Let others have it."""
        with self._lock:
            self._file.close()


def _is_mine(file: FileIO, path: Path) -> bool:
    """Lock *file*; tell whether it is nobody else's, and still the draft."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had the lock until now may have given the file its name meanwhile.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _read_into(digest: "hashlib._Hash", file: int) -> int:
    """Read the whole *file* into *digest*; return its length."""
    place = 0
    while chunk := os.pread(file, _READ, place):
        digest.update(chunk)
        place += len(chunk)
    return place


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what is wrong with the directory."""
    try:
        yield
    except OSError as exc:
        raise Refused(
            "image_not_found",
            f"cannot keep images in images.cache ({path}): {exc.strerror}",
        ) from exc
