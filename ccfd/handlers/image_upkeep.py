"""The upkeep of base images: which hosts have which, and those that nobody uses go."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy import delete, insert, select, update

from ccfd.errors import CcfdError
from ccfd.handlers.unused_images import OnHost, Verdict, judge
from ccfd.settings import Settings
from ccfd.store.database import Database, Transaction
from ccfd.store.rounds import rounds
from ccfd.store.tables import host_image, vm

log = structlog.get_logger()

TOPIC = "image-upkeep"
EVERY = 60.0
LINGERS = 600.0
"""Seconds that a file without its mark is left: much longer than any call to a host may take."""


class HostImages(Protocol):
    """Who can look after the base images of hosts."""

    async def inventory(self, host: str) -> dict[str, bool]:
        """Tell of each checksum whether it has its mark."""

    async def retire(self, host: str, checksum: str) -> bool:
        """Take the mark away; tell whether no disk depends on the image."""

    async def remove(self, host: str, checksum: str) -> bool:
        """Remove the file; tell whether it had no mark, and no disk depended on it."""


class ImageCopies(Protocol):
    """Who keeps copies of images on this machine."""

    async def prune(self, unused_for: float) -> None:
        """Remove what had no use for so many seconds."""


class ImageUpkeep:
    """Looks at each host once a minute, on the daemon that leads."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        images: HostImages,
        copies: ImageCopies,
        leads: Callable[[], bool],
    ) -> None:
        self._hosts = [host.name for host in settings.host]
        self._seconds = settings.images.unused_after
        self._lingers = timedelta(seconds=max(LINGERS, 2 * settings.hypervisor.call_timeout))
        self._database = database
        self._images = images
        self._copies = copies
        self._leads = leads

    async def run(self) -> None:
        """Look, for ever."""
        await rounds(self._database, TOPIC, EVERY, self.round)

    async def round(self) -> None:
        """Look at every host, side by side; and at the copies on this machine."""
        if self._seconds:
            try:
                await self._copies.prune(self._seconds)
            except CcfdError as exc:
                log.warning("kept images not looked at", reason=exc.message)
        if self._leads():
            async with asyncio.TaskGroup() as group:
                for host in self._hosts:
                    group.create_task(self._look(host))

    async def _look(self, host: str) -> None:
        try:
            seen = await self._images.inventory(host)
            verdict = await self._database.run(partial(self._judge, host, seen))
            for checksum in verdict.retired:
                await self._let_go(host, checksum, "retired", self._images.retire)
            for checksum in verdict.removed:
                await self._let_go(host, checksum, "removed", self._images.remove)
        except CcfdError as exc:
            log.info("base images not looked at", host=host, reason=exc.message)

    async def _judge(self, host: str, seen: dict[str, bool], transaction: Transaction) -> Verdict:
        """Judge, and remember."""
        rows = await transaction.all(select(host_image).where(host_image.c.host == host))
        images = await transaction.all(
            select(vm.c.image_checksum.label("checksum"))
            .where(vm.c.host == host, vm.c.image_checksum.is_not(None))
            .distinct()
        )
        before = {OnHost(row.checksum, row.unused_since, row.unmarked_since) for row in rows}
        verdict = judge(
            seen,
            before,
            {row.checksum for row in images},
            transaction.now,
            unused_for=timedelta(seconds=self._seconds) if self._seconds else None,
            unmarked_for=self._lingers,
        )
        changed = [one for one in verdict.known if one not in before]
        gone = {one.checksum for one in before} - seen.keys() | {one.checksum for one in changed}
        if gone:
            await transaction.execute(
                delete(host_image).where(host_image.c.host == host, host_image.c.checksum.in_(gone))
            )
        if changed:
            await transaction.execute(
                insert(host_image),
                [
                    {
                        "host": host,
                        "checksum": one.checksum,
                        "unused_since": one.unused_since,
                        "unmarked_since": one.unmarked_since,
                    }
                    for one in changed
                ],
            )
        return verdict

    async def _let_go(
        self, host: str, checksum: str, what: str, act: Callable[[str, str], Awaitable[bool]]
    ) -> None:
        """Take a mark or a file away; what a disk depends on counts as used from now on."""
        if not self._leads():
            return
        if await act(host, checksum):
            log.info("base image without use", host=host, checksum=checksum, now=what)
            return
        log.info("base image has a use that no VM tells of", host=host, checksum=checksum)
        await self._database.run(
            lambda transaction: transaction.execute(
                update(host_image)
                .where(host_image.c.host == host, host_image.c.checksum == checksum)
                .values(unused_since=None)
            )
        )
