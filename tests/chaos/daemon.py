"""A whole ccfd over twins, in a process of its own: `python -m tests.chaos.daemon FOLDER NUMBER`.

All of it is real, from the lock on the database's file to HTTP on a UNIX socket, but the drivers.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from ccfd import settings
from ccfd.__main__ import log_to_stderr
from ccfd.daemon import Daemon
from ccfd.handlers.host_watch import HostWatch
from ccfd.settings import Settings
from ccfd.vt.capacity import Capacity
from tests.chaos import keep
from tests.chaos.life import CALL, Folder
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.tripwire import Tripwire, wired
from tests.harness import lab_settings


class Switches:
    """Switches that always answer."""

    async def probe(self, host: str) -> None:
        """Answer."""


class Hypervisors:
    """Hosts that are always up."""

    async def probe(self, host: str) -> bool:
        """Answer."""
        return True

    async def capacity(self, host: str) -> Capacity:
        """Tell what the host has."""
        return Capacity(cpu=8, ram=4096, disk=100)


def configured(folder: Folder) -> Settings:
    """Make settings on what is in *folder*."""
    lab = lab_settings(f"sqlite+aiosqlite:///{folder.database}")
    http = settings.Http(listen="", socket=str(folder.path / "ccfd.sock"))
    return lab.model_copy(update={"http": http})


def main() -> None:
    """Run until SIGTERM."""
    folder, scenario = Folder(Path(sys.argv[1])), SCENARIOS[int(sys.argv[2])]
    log_to_stderr()
    world, fault = keep.load(folder.world), scenario.fault()

    async def slow(call: str, args: Any) -> None:
        await asyncio.sleep(CALL)
        await fault(call, args)

    world.trap = slow
    config = configured(folder)
    daemon = Daemon(config, wired(world.effects(), world, folder.world, Tripwire()))
    daemon._watch = HostWatch(config, daemon.database, Hypervisors(), Switches())
    asyncio.run(daemon.run())


if __name__ == "__main__":
    main()
