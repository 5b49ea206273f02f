"""Has the guards' flows back at once when a switch has lost them, and looks at them now and then.

ovs-vswitchd forgets flows when it ends. The monitor hears of the next one (docs/adr/0022).
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from ccfd.errors import CcfdError
from ccfd.network.guarding import Guarding, WrongFlows
from ccfd.network.monitor import News
from ccfd.settings import Settings

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.25
"""Seconds until a guard that did not answer is tried again; twice as long each time."""


class GuardWatch:
    """Watches *guards*, on the daemon that leads; `repaired` is told of each VM put right."""

    def __init__(
        self,
        settings: Settings,
        guards: Iterable[Guarding],
        leads: Callable[[], bool],
        repaired: Callable[[str], None],
    ) -> None:
        self._guards = {guard: asyncio.Event() for guard in guards}
        self._every = settings.reconcile.every or None
        self._leads = leads
        self._repaired = repaired

    def hear(self, news: News) -> None:
        """Look at a switch that was started anew, or may have been."""
        for guard, called in self._guards.items():
            if guard.host in news.hosts and news.what in ("heard", "restarted"):
                called.set()

    def hurry(self) -> None:
        """Look at all guards now."""
        for called in self._guards.values():
            called.set()

    async def look(self) -> tuple[list[WrongFlows], dict[str, str]]:
        """Return what guards have wrong at this moment, and which said nothing and why."""
        guards = list(self._guards)
        told = await asyncio.gather(*(guard.look() for guard in guards), return_exceptions=True)
        wrong: list[WrongFlows] = []
        silent: dict[str, str] = {}
        for guard, one in zip(guards, told, strict=True):
            if isinstance(one, CcfdError):
                silent[f"guard of {guard.host}"] = one.message
            elif isinstance(one, BaseException):
                raise one
            else:
                wrong += one
        return wrong, silent

    async def run(self) -> None:
        """Watch, for ever."""
        async with asyncio.TaskGroup() as group:
            for guard, called in self._guards.items():
                group.create_task(self._keep(guard, called), name=f"guard of {guard.host}")

    async def _keep(self, guard: Guarding, called: asyncio.Event) -> None:
        pause = FIRST_PAUSE
        while True:
            called.clear()
            within = self._every
            if self._leads():
                try:
                    await self._restore(guard)
                    pause = FIRST_PAUSE
                except CcfdError as exc:
                    log.debug("flows not looked at", host=guard.host, why=exc.message)
                    within, pause = pause, min(2 * pause, self._every or 2 * pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await called.wait()

    async def _restore(self, guard: Guarding) -> None:
        wrong, strange = await guard.restore()
        if wrong or strange:
            log.warning("flows put right", host=guard.host, vms=wrong, strangers=strange)
        for _ in range(wrong + strange):
            self._repaired("flows")
