"""How a loop of the daemon goes on: when it is woken, after a while, and across every trouble."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ccfd.store.database import Database, DatabaseAway, told_or_later

log = structlog.get_logger()


async def rounds(
    database: Database,
    topic: str,
    seconds: float,
    act: Callable[[], Awaitable[None]],
    *,
    until: asyncio.Event | None = None,
) -> None:
    """Call *act* now, whenever *topic* is woken, and every so many *seconds*.

    Ends when *until* is set (and the topic is woken), or when it is cancelled. An outage of the
    database, or a defect, costs one round and not the daemon.
    """
    away = False
    async with database.signals.listen(topic) as told:
        while until is None or not until.is_set():
            try:
                await act()
                away = False
            except DatabaseAway as exc:
                if not away:
                    log.warning("waiting for the database", loop=topic, reason=exc.message)
                away = True
                await asyncio.sleep(seconds)
            except Exception:
                log.exception("a round is defective", loop=topic)
                await asyncio.sleep(seconds)
            await told_or_later(told, seconds)
