"""Which images of Glance can be used, and how their bytes come here."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from ccfd.errors import Refused, Transient
from ccfd.model.vm import IgnoredImage, Image, Listing
from ccfd.vt import checksums, qcow2
from ccfd.vt.glance import Glance, Record
from ccfd.vt.image_cache import Draft, ImageCache
from ccfd.vt.image_source import NAME

log = structlog.get_logger()

AT_ONCE = 8
"""Headers read side by side."""
LOOK_EVERY = 1.0
LOOKS = 60
"""Seconds between two looks whether another ccfd of this machine has done it, and how many."""


class Usable(NamedTuple):
    """An image that may do, by all that Glance says of it."""

    name: str
    id: str
    size: int
    checksum: str


def choose(records: Iterable[Record]) -> tuple[list[Usable], list[IgnoredImage]]:
    """Choose the newest image of each name, of those that look usable; say why not the others."""
    chosen: dict[str, Usable] = {}
    ignored = []
    for record in sorted(records, key=lambda one: (one.created_at, one.id), reverse=True):
        found = _look(record)
        if isinstance(found, str):
            ignored.append(IgnoredImage(name=record.name or record.id, why=found))
        elif found.name in chosen:
            why = f"{record.id} is older than {chosen[found.name].id} of the same name"
            ignored.append(IgnoredImage(name=found.name, why=why))
        else:
            chosen[found.name] = found
    return sorted(chosen.values()), ignored


def _look(record: Record) -> Usable | str:
    """Return the image if it may do, or why it can't."""
    name, size, checksum = record.name or "", record.size or 0, record.os_hash_value or ""
    if not NAME.fullmatch(name):
        return "its name is not an image's name"
    if record.status != "active":
        return f"it is {record.status}"
    if (record.disk_format, record.container_format) != ("qcow2", "bare"):
        return f"it is {record.disk_format} in {record.container_format}, not qcow2 in bare"
    if not checksums.is_checksum(checksum, record.os_hash_algo or ""):
        return f"its hash ({record.os_hash_algo}) is none of SHA-2"
    if size == 0:
        return "it has no data"
    return Usable(name=name, id=record.id, size=size, checksum=checksum)


class GlanceImages:
    """A store of images (`image_source.ImageSource`) that is a Glance, with a cache before it."""

    def __init__(self, glance: Glance, cache: ImageCache) -> None:
        self._glance = glance
        self._cache = cache
        self._sizes: dict[str, int] = {}
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def list(self, name: str | None = None) -> Listing:
        """List the images, or the one called *name*; the first bytes of each are looked at.

        An active image never gets other bytes, so that each is looked at once.
        """
        usable, ignored = choose(await self._glance.images(name))
        permits = asyncio.Semaphore(AT_ONCE)

        async def look(one: Usable) -> Image | IgnoredImage | Transient:
            async with permits:
                try:
                    size = await self._virtual_size(one)
                except Refused as exc:
                    return IgnoredImage(name=one.name, why=exc.message)
                except Transient as exc:
                    return exc
            return Image(**one._asdict(), virtual_size=size)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(one)) for one in usable]
        images = []
        for task in tasks:
            match task.result():
                case Transient() as exc:
                    raise exc
                case IgnoredImage() as found:
                    ignored.append(found)
                case found:
                    images.append(found)
        return Listing(images=tuple(images), ignored=tuple(ignored))

    async def open_path(self, image: Image) -> Path:
        """Return a file of this machine that holds *image*; see `ImageSource`.

        However many ask, it comes once. Raises `Transient` when Glance breaks off or is away:
        the next call goes on behind what has come.
        """
        async with self._busy[image.checksum]:
            for _ in range(LOOKS):
                path = await asyncio.to_thread(self._cache.find, image)
                if path is not None:
                    return path
                if not await self._download(image):
                    await asyncio.sleep(LOOK_EVERY)
        raise Transient("timeout", f"another ccfd has not fetched image {image.name} yet")

    async def prune(self, unused_for: float) -> None:
        """Remove what the cache has kept so many seconds with no use."""
        for name in await asyncio.to_thread(self._cache.prune, time.time() - unused_for):
            log.info("kept image removed", file=name)

    async def close(self) -> None:
        """Close connections."""
        await self._glance.close()

    async def _virtual_size(self, one: Usable) -> int:
        if one.id not in self._sizes:
            end = min(one.size, qcow2.HEADER_LENGTH)
            async with self._glance.data(one.id, 0, end) as data:
                self._sizes[one.id] = qcow2.virtual_size(await data.first(end))
        return self._sizes[one.id]

    async def _download(self, image: Image) -> bool:
        """Have the image in the cache; False where another ccfd is at it."""
        await self._confirm(image)
        draft = await asyncio.to_thread(self._cache.draft, image)
        if draft is None:
            return False
        try:
            resumed = draft.length > 0
            fault = await self._filled(image, draft)
            if fault is not None and resumed:
                log.warning("an image's draft was of no use", image=image.name, why=fault)
                await asyncio.to_thread(draft.begin_anew)
                fault = await self._filled(image, draft)
            if fault is not None:
                await asyncio.to_thread(draft.begin_anew)
                raise Refused(
                    "image_corrupt",
                    f"Glance's image {image.name} ({image.id}) cannot be used: {fault}; upload "
                    "it again as a new image, and import",
                    details={"image": image.name, "id": image.id},
                )
            # Whoever deletes an image does not break off those who read it.
            await self._confirm(image)
            await asyncio.to_thread(draft.keep)
            log.info("image fetched", image=image.name, id=image.id, bytes=image.size)
            return True
        finally:
            await asyncio.to_thread(draft.close)

    async def _confirm(self, image: Image) -> None:
        """Raise `Refused` when Glance does not have the image any more, or not this one."""
        try:
            found = await self._glance.show(image.id)
            is_same = found.os_hash_value == image.checksum
            why = f"it is {found.status}" if is_same else "it is another one now"
        except Refused as exc:
            found, why = None, exc.message
        if found is None or found.status != "active" or not is_same:
            raise Refused(
                "image_not_found",
                f"Glance's image {image.name} ({image.id}) cannot be used: {why}; import again",
                details={"image": image.name, "id": image.id},
            )

    async def _filled(self, image: Image, draft: Draft) -> str | None:
        """Get all that is missing; return what is wrong with the whole."""
        try:
            while draft.length < image.size:
                await self._go_on(image, draft)
        except Refused as exc:
            if exc.code != "image_corrupt":
                raise
            return exc.message
        return await asyncio.to_thread(draft.fault)

    async def _go_on(self, image: Image, draft: Draft) -> None:
        """Get as much as comes in one answer; it is an error only when nothing came."""
        before = draft.length
        try:
            async with self._glance.data(image.id, before) as data:
                if data.start != before:
                    await asyncio.to_thread(draft.begin_anew)
                async for chunk in data.chunks():
                    await asyncio.to_thread(draft.write, chunk)
        except Transient as exc:
            if draft.length <= before:
                raise Transient(
                    exc.code,
                    f"image {image.name} breaks off after {before} of {image.size} bytes: "
                    f"{exc.message}",
                    details={"image": image.name, "id": image.id},
                ) from exc
            log.info("an image's transfer goes on", image=image.name, why=exc.message)
            return
        if draft.length <= before < image.size:
            raise Refused("image_corrupt", f"it ends after {draft.length} of {image.size} bytes")
