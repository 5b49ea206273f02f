"""Where base images come from."""

import asyncio
import hashlib
import re
import threading
from pathlib import Path
from typing import Protocol

import structlog

from ccfd.errors import CcfdError, Refused
from ccfd.model.vm import Image
from ccfd.vt import qcow2

log = structlog.get_logger()

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_READ = 1 << 20


class ImageSource(Protocol):
    """A store of base images."""

    async def list(self) -> tuple[Image, ...]:
        """List the images that can be used, by name."""
        ...

    async def open_path(self, image: Image) -> Path:
        """Return a file of this machine that holds *image*.

        Raises `Refused`: `image_not_found` when it is gone, `image_corrupt` when its bytes are
        not those of *image*'s checksum.
        """
        ...


class DirectoryImages:
    """The qcow2 files of a directory: `tiny.qcow2` is the image `tiny`.

    Replace a file by renaming another over it, never by writing into it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[tuple[str, int, int, int], Image] = {}
        self._reading = threading.Lock()

    async def list(self) -> tuple[Image, ...]:
        """Read the directory; a file that cannot be an image is left out, with a line in the log.

        Raises `Refused` (`image_not_found`) when there is no such directory.
        """
        return await asyncio.to_thread(self._list)

    async def open_path(self, image: Image) -> Path:
        """Return the path of *image*'s file; see `ImageSource`."""
        return await asyncio.to_thread(self._path, image)

    def _list(self) -> tuple[Image, ...]:
        try:
            paths = sorted(self._directory.glob("*.qcow2"))
            present = self._directory.is_dir()
        except OSError as exc:
            raise Refused("image_not_found", f"cannot read {self._directory}: {exc}") from exc
        if not present:
            raise Refused("image_not_found", f"images.directory {self._directory} is missing")
        return tuple(image for path in paths if (image := self._usable(path)) is not None)

    def _usable(self, path: Path) -> Image | None:
        if not _NAME.fullmatch(path.stem):
            log.warning("image ignored", path=str(path), why="its name is not an image's name")
            return None
        try:
            return self._image(path)
        except (CcfdError, OSError) as exc:
            log.warning("image ignored", path=str(path), why=str(exc))
            return None

    def _path(self, image: Image) -> Path:
        path = self._directory / f"{image.name}.qcow2"
        try:
            present = self._image(path)
        except OSError as exc:
            raise Refused(
                "image_not_found",
                f"image {image.name} cannot be read: {exc}; put it back and import it again",
                details={"image": image.name},
            ) from exc
        if present.checksum != image.checksum:
            raise Refused(
                "image_corrupt",
                f"{path} is no longer the file that was imported as image {image.name}: import "
                "it again",
                details={"image": image.name, "checksum": present.checksum},
            )
        return path

    def _image(self, path: Path) -> Image:
        """Describe the file *path*; read it only if it changed since the last time."""
        with self._reading, path.open("rb") as file:
            status = path.stat()
            key = (str(path), status.st_mtime_ns, status.st_size, status.st_ino)
            if key not in self._known:
                header = file.read(qcow2.HEADER_LENGTH)
                size = qcow2.virtual_size(header)
                digest = hashlib.sha256(header)
                while chunk := file.read(_READ):
                    digest.update(chunk)
                self._known = {old: at for old, at in self._known.items() if old[0] != key[0]}
                self._known[key] = Image(
                    name=path.stem,
                    checksum=digest.hexdigest(),
                    size=status.st_size,
                    virtual_size=size,
                )
            return self._known[key]
