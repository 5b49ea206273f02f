"""How a base image gets to a host, whole and once.

libvirt's storage API has no rename, so a volume cannot be finished under one name and shown
under another. The volume `ccf-image-<checksum>` is therefore complete only when a second, empty
volume `ccf-image-<checksum>.ok` stands beside it; it is made last (docs/adr/0004).
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.vm import Image, ImageListing, ImageOnHost
from ccfd.vt import api, checksums, pools, volumes
from ccfd.vt.image_source import ImageSource, tell_ignored
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session

MARK = ".ok"
_READ = 1 << 20
_SLOWEST = 4 << 20
"""Bytes a second that a transfer may count on; it goes out and comes back."""


class Images:
    """The image store, and the base images in the hosts' pools."""

    def __init__(self, lanes: Mapping[str, Lane], source: ImageSource, pool: str) -> None:
        self._lanes = lanes
        self._source = source
        self._pool = pool
        self._busy: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def list(self, wanted: ImageListing) -> dict[str, Any]:
        """Return the fields of a `Listing`.

        Raises `Refused` (`image_not_found`): there is no store, or nothing of that name in it
        that can be used; `Transient`: the store is away.
        """
        found = await self._source.list(wanted.name)
        tell_ignored(found)
        if wanted.name is not None and not found.images:
            what = "; ".join(one.why for one in found.ignored) or "it has none"
            raise Refused("image_not_found", f"no image {wanted.name!r} in the image store: {what}")
        return asdict(found)

    async def fetch(self, wanted: ImageOnHost) -> None:
        """Have the image in the host's pool; a complete one is never touched.

        Raises `Refused`: `image_not_found` when the source has it no more, `image_corrupt` when
        it has other bytes; `Transient` when the transfer fails.
        """
        image = wanted.image
        lane = self._lanes[wanted.host]
        async with self._busy[wanted.host, image.checksum]:
            if await lane.call(_is_complete, self._pool, image):
                return
            path = await self._source.open_path(image)
            within = lane.call_timeout + 2 * image.size / _SLOWEST
            await lane.effect(image.checksum, within, _transfer, self._pool, image, path)


def complete(pool: api.Pool, image: Image) -> api.Volume | None:
    """Return the volume of *image*, if all of it is there."""
    name = names.image_volume(image.checksum)
    volume = volumes.find(pool, name)
    if volume is None or volumes.find(pool, name + MARK) is None:
        return None
    return volume if volumes.length(volume) == image.size else None


def _is_complete(session: Session, path: str, image: Image) -> bool:
    return complete(pools.ensure(session, path), image) is not None


def _transfer(session: Session, directory: str, image: Image, path: Path) -> None:
    """Send the file, read it back, and only then mark it complete.

    An incomplete volume is written over in place and not removed first: should another process
    be at it as well, both write the same bytes into the same file.
    """
    pool = pools.ensure(session, directory)
    if complete(pool, image) is not None:
        return
    name = names.image_volume(image.checksum)
    volumes.delete(session, pool, name + MARK)
    volume = volumes.find(pool, name)
    if volume is not None and volumes.length(volume) > image.size:
        volumes.delete(session, pool, name)
        volume = None
    if volume is None:
        volume = volumes.adopt(session, pool, name, volumes.plain(name))
    sent = checksums.hasher(image.checksum)
    try:
        volumes.upload(session, volume, _read(path, sent))
    except OSError as exc:
        raise Refused("image_not_found", f"image {image.name} cannot be read: {exc}") from exc
    if sent.hexdigest() != image.checksum:
        volumes.delete(session, pool, name)
        raise Refused(
            "image_corrupt",
            f"{path} changed while image {image.name} was read: import it again",
            details={"image": image.name},
        )
    arrived = checksums.hasher(image.checksum)
    for chunk in volumes.download(session, volume):
        arrived.update(chunk)
    if arrived.hexdigest() != image.checksum:
        volumes.delete(session, pool, name)
        raise Transient(
            "hypervisor_error", f"image {image.name} arrived damaged on host {session.host}"
        )
    volumes.adopt(session, pool, name + MARK, volumes.plain(name + MARK))


def _read(path: Path, digest: "hashlib._Hash") -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
            yield chunk
