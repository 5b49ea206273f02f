"""Where base images come from."""

import asyncio
import hashlib
import re
import threading
from pathlib import Path
from typing import Protocol

import structlog

from ccfd.errors import CcfdError, Refused
from ccfd.model.vm import IgnoredImage, Image, Listing
from ccfd.vt import qcow2

log = structlog.get_logger()

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""An image's name, the whole of it."""
_READ = 1 << 20


class ImageSource(Protocol):
    """A store of base images."""

    async def list(self, name: str | None = None) -> Listing:
        """List what is there, or only what is called *name*.

        Raises `Refused` (`image_not_found`) when there is no store, `Transient` when it is away.
        """
        ...

    async def open_path(self, image: Image) -> Path:
        """Return a file of this machine that holds *image*.

        Raises `Refused`: `image_not_found` when it is gone, `image_corrupt` when its bytes are
        not those of *image*'s checksum; `Transient` when it does not come now.
        """
        ...

    async def prune(self, unused_for: float) -> None:
        """Remove copies on this machine that had no use for so many seconds."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def tell_ignored(listing: Listing) -> None:
    """Log what is in the store and cannot be used."""
    for one in listing.ignored:
        log.warning("image ignored", image=one.name, why=one.why)


class NoImages:
    """The store of settings that name none."""

    async def list(self, name: str | None = None) -> Listing:
        """Say so."""
        raise _no_store()

    async def open_path(self, image: Image) -> Path:
        """Say so."""
        raise _no_store()

    async def prune(self, unused_for: float) -> None:
        """Do nothing: there are no copies."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class DirectoryImages:
    """The qcow2 files of a directory: `tiny.qcow2` is the image `tiny`.

    Replace a file by renaming another over it, never by writing into it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[tuple[str, int, int, int], Image] = {}
        self._reading = threading.Lock()

    async def list(self, name: str | None = None) -> Listing:
        """Read the directory; see `ImageSource`."""
        return await asyncio.to_thread(self._list, name)

    async def open_path(self, image: Image) -> Path:
        """Return the path of *image*'s file; see `ImageSource`."""
        return await asyncio.to_thread(self._path, image)

    async def prune(self, unused_for: float) -> None:
        """Do nothing: there are no copies."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def _list(self, name: str | None) -> Listing:
        try:
            paths = sorted(self._directory.glob(f"{name or '*'}.qcow2"))
            present = self._directory.is_dir()
        except OSError as exc:
            raise Refused("image_not_found", f"cannot read {self._directory}: {exc}") from exc
        if not present:
            raise Refused("image_not_found", f"images.directory {self._directory} is missing")
        found = [self._look(path) for path in paths]
        return Listing(
            images=tuple(one for one in found if isinstance(one, Image)),
            ignored=tuple(one for one in found if isinstance(one, IgnoredImage)),
        )

    def _look(self, path: Path) -> Image | IgnoredImage:
        if not NAME.fullmatch(path.stem):
            return IgnoredImage(name=path.stem, why="its name is not an image's name")
        try:
            return self._image(path)
        except (CcfdError, OSError) as exc:
            return IgnoredImage(name=path.stem, why=str(exc))

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
                    id=digest.hexdigest(),
                    checksum=digest.hexdigest(),
                    size=status.st_size,
                    virtual_size=size,
                )
            return self._known[key]


def _no_store() -> Refused:
    return Refused(
        "image_not_found",
        "no image store: set images.directory or images.glance_url, and start ccfd again",
    )
