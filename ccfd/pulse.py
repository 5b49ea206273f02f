"""Does every part of the daemon still turn? systemd's watchdog is fed while all do.

A part turns also while what it works with is away: it tries, and tries again. One that does not
is stuck by a defect, and only a restart helps.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()

TICK = 0.5
LOOP, BROKER, DATABASE = "loop", "broker", "database"
# Seconds. A round may wait for a database that is frozen, and for a broker until it is given up:
# half a minute each at most.
PATIENCE = {LOOP: 5.0, BROKER: 120.0, DATABASE: 120.0}


class Pulse:
    """Remembers when each part turned last. `clock` tells seconds that only grow."""

    def __init__(
        self, clock: Callable[[], float], patience: Mapping[str, float] = PATIENCE
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._turned = dict.fromkeys(patience, clock())
        self._told: frozenset[str] = frozenset()

    def turned(self, part: str) -> None:
        """Note that *part* has come round again."""
        self._turned[part] = self._clock()

    @property
    def still(self) -> frozenset[str]:
        """Name the parts that stand still."""
        now = self._clock()
        return frozenset(
            part for part, most in self._patience.items() if now - self._turned[part] > most
        )

    def is_alive(self) -> bool:
        """Tell whether every part turns."""
        return not self.still

    async def run(self, ticked: Callable[[float], None]) -> None:
        """Tell *ticked*, twice a second, by how many seconds the event loop came late."""
        while True:
            due = self._clock() + TICK
            await asyncio.sleep(TICK)
            self.turned(LOOP)
            ticked(max(0.0, self._clock() - due))
            self._tell()

    def _tell(self) -> None:
        still = self.still
        for part in sorted(still - self._told):
            log.error("a part of ccfd stands still: systemd will restart it", part=part)
        for part in sorted(self._told - still):
            log.info("a part of ccfd turns again", part=part)
        self._told = still
