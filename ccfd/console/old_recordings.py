"""Which recordings are removed: those that are old enough, whether or not any are made now."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog

from ccfd.console.recording import ENDINGS
from ccfd.settings import Console

log = structlog.get_logger()

EVERY = 3600.0
"""Seconds between two looks."""
DAY = 86400.0
_ENDINGS = frozenset(ENDINGS.values())


def prune(folder: Path, before: float) -> list[str]:
    """Remove the recordings that were last written before that time (Unix seconds); name them.

    Raises `OSError`.
    """
    removed = []
    if folder.is_dir():
        for path in folder.iterdir():
            if _is_recording(path) and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def _is_recording(path: Path) -> bool:
    try:
        return path.name == f"{UUID(path.stem)}{path.suffix}" and path.suffix[1:] in _ENDINGS
    except ValueError:
        return False


class OldRecordings:
    """Removes this ccfd's recordings after `[console] recording_days`."""

    def __init__(self, settings: Console, clock: Callable[[], float] = time.time) -> None:
        self._folder = settings.recordings
        self._seconds = settings.recording_days * DAY
        self._clock = clock

    async def run(self) -> None:
        """Look now and every hour, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Remove what is too old now, unless all are kept."""
        if not self._seconds:
            return
        try:
            removed = await asyncio.to_thread(prune, self._folder, self._clock() - self._seconds)
        except OSError as exc:
            log.warning("old recordings not removed", folder=str(self._folder), why=str(exc))
            return
        for name in removed:
            log.info("old recording removed", audit=True, recording=str(self._folder / name))
