"""How a base image gets to a host, whole and once.

libvirt's storage API has no rename, so a volume cannot be finished under one name and shown
under another. The volume `ccf-image-<checksum>` is therefore complete only when a second, empty
volume `ccf-image-<checksum>.ok` stands beside it; it is made last (docs/adr/0004).
"""

import asyncio
import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
_IMAGE = re.compile(r"ccf-image-([0-9a-f]{64,128})")
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
            # A late call that takes the image away is waited for.
            if await lane.effect(
                image.checksum, lane.call_timeout, _is_complete, self._pool, image
            ):
                return
            path = await self._source.open_path(image)
            within = lane.call_timeout + 2 * image.size / _SLOWEST
            await lane.effect(image.checksum, within, _transfer, self._pool, image, path)

    async def inventory(self, host: str) -> dict[str, bool]:
        """Return the checksums of the images in *host*'s pool, and whether each has its mark."""
        return await self._lanes[host].call(_inventory, self._pool)

    async def retire(self, host: str, checksum: str) -> bool:
        """Take the image's mark away: from now on it is sent again before a disk is built on it.

        False where a disk depends on it: nothing is done. Never while it is being sent.
        """
        return await self._let_go(host, checksum, _retire)

    async def remove(self, host: str, checksum: str) -> bool:
        """Remove the file of an image without a mark.

        False where it has one, or a disk depends on it: nothing is done. Never while it is being
        sent.
        """
        return await self._let_go(host, checksum, _remove)

    async def _let_go(
        self, host: str, checksum: str, work: Callable[[Session, str, str], bool]
    ) -> bool:
        lane = self._lanes[host]
        async with self._busy[host, checksum]:
            return await lane.effect(checksum, lane.call_timeout, work, self._pool, checksum)


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


def _inventory(session: Session, directory: str) -> dict[str, bool]:
    present = {volume.name() for volume in pools.ensure(session, directory).listAllVolumes()}
    found = (_IMAGE.fullmatch(name) for name in present)
    return {match[1]: match[0] + MARK in present for match in found if match}


def _retire(session: Session, directory: str, checksum: str) -> bool:
    pool = pools.ensure(session, directory)
    name = names.image_volume(checksum)
    if _has_dependants(pool, name):
        return False
    volumes.delete(session, pool, name + MARK)
    return True


def _remove(session: Session, directory: str, checksum: str) -> bool:
    pool = pools.ensure(session, directory)
    # Another daemon's new file may not be known here yet, nor may its disk.
    pool.refresh()
    name = names.image_volume(checksum)
    if volumes.find(pool, name + MARK) is not None or _has_dependants(pool, name):
        return False
    volumes.delete(session, pool, name)
    return True


def _has_dependants(pool: api.Pool, name: str) -> bool:
    """Tell whether a volume of the pool keeps changes to the volume *name*."""
    base = volumes.find(pool, name)
    return base is not None and any(
        volumes.backing_path(volume) == posixpath.normpath(base.path())
        for volume in pool.listAllVolumes()
        if volume.name() != name
    )


def _read(path: Path, digest: "hashlib._Hash") -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
            yield chunk
