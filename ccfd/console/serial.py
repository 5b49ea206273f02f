"""A VM's serial console, shared by all who look at it through this ccfd.

libvirt opens it once; so the first viewer opens it, the last one closes it, and each next one is
shown first what the others have seen. The first is shown the end of what the host has kept.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from ccfd.console.closing import BAD_DATA, ENDED, HUNG_UP, Close, Closed
from ccfd.console.relay import Viewer
from ccfd.console.wire import FRAME
from ccfd.errors import CcfdError

log = structlog.get_logger()

REMEMBERED = 64 * 1024
"""Bytes that a viewer who comes later is shown of what was before."""
MOST_BEHIND = FRAME
"""Bytes that a viewer may be behind before the VM's console is not read on."""
KEPT_WITHIN = 5.0
"""Seconds that the first viewer waits for what was before."""
MOST_TWICE = 4096
"""Bytes that are looked for twice; what a busier VM wrote meanwhile may be shown twice."""


class Line(Protocol):
    """An open serial console."""

    def send(self, data: bytes) -> bool:
        """Have *data* written; return False where too much waits already."""

    def pause(self) -> None:
        """Read nothing for now."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close it."""


class Serials(Protocol):
    """Who opens serial consoles."""

    async def open(
        self, host: str, vm: str, heard: Callable[[bytes], None], ended: Callable[[], None]
    ) -> Line:
        """Open a VM's; raise `CcfdError`."""


class Logs(Protocol):
    """Who keeps what VMs write to their serial consoles while nobody looks."""

    async def read(self, host: str, vm: str) -> bytes:
        """Return the end of what a VM wrote since it was started; raise `CcfdError`."""


def joined(kept: bytes, heard: bytes) -> bytes:
    """Put together what was *kept*, read after the console was opened, and what it brought since.

    What was written in between is in both: the longest end of *kept* that *heard* begins with.
    """
    for length in range(min(len(kept), len(heard), MOST_TWICE), 0, -1):
        if kept.endswith(heard[:length]):
            return kept + heard[length:]
    return kept + heard


@dataclass(eq=False, slots=True)
class Reader:
    """What one viewer has yet to be shown. `received` counts all of it."""

    record: Callable[[bytes], None] | None = None
    received: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, data: bytes) -> None:
        """Have *data* shown."""
        self.buffer += data
        self.received += len(data)
        if self.record is not None:
            self.record(data)
        self.told.set()


class Shared:
    """One VM's console and its readers."""

    def __init__(self) -> None:
        self.opening = asyncio.Lock()
        self.users = 0
        self.line: Line | None = None
        self.readers: set[Reader] = set()
        self.log = bytearray()
        self.ended = asyncio.Event()

    def had_kept(self, kept: bytes) -> None:
        """Let *kept*, read since the console is open, be what came before."""
        self.log = bytearray(joined(kept, bytes(self.log))[-REMEMBERED:])

    def heard(self, data: bytes) -> None:
        """Show *data* to all."""
        self.log += data
        del self.log[:-REMEMBERED]
        for reader in self.readers:
            reader.add(data)
        if self._is_behind() and self.line is not None:
            self.line.pause()

    def has_ended(self) -> None:
        """Let all viewers know that nothing more comes."""
        self.ended.set()
        for reader in self.readers:
            reader.told.set()

    def caught_up(self) -> None:
        """Read on, if nobody is far behind any more."""
        if self.line is not None and not self._is_behind():
            self.line.resume()

    def _is_behind(self) -> bool:
        return any(len(reader.buffer) > MOST_BEHIND for reader in self.readers)


class SerialConsoles:
    """The serial consoles that are open through this ccfd, by VM."""

    def __init__(self, serials: Serials, logs: Logs) -> None:
        self._serials = serials
        self._logs = logs
        self._shared: dict[str, Shared] = {}

    async def join(
        self, viewer: Viewer, reader: Reader, host: str, vm: str, *, view_only: bool
    ) -> Close:
        """Relay between a viewer and a VM's console until one of them ends; say why.

        Raises `CcfdError` where it cannot be opened.
        """
        shared = self._shared.get(vm)
        if shared is None or shared.ended.is_set():
            shared = self._shared[vm] = Shared()
        shared.users += 1
        try:
            async with shared.opening:
                if shared.line is None:
                    shared.line = await self._serials.open(host, vm, shared.heard, shared.has_ended)
                    # The other way round what is written in between would be in neither.
                    shared.had_kept(await self._kept(host, vm))
            reader.add(bytes(shared.log))
            shared.readers.add(reader)
            return await _relay(viewer, reader, shared, view_only=view_only)
        finally:
            shared.readers.discard(reader)
            shared.caught_up()
            shared.users -= 1
            if shared.users == 0:
                if shared.line is not None:
                    shared.line.close()
                if self._shared.get(vm) is shared:
                    del self._shared[vm]

    async def _kept(self, host: str, vm: str) -> bytes:
        try:
            async with asyncio.timeout(KEPT_WITHIN):
                return await self._logs.read(host, vm)
        except (CcfdError, TimeoutError) as exc:
            log.warning(
                "serial log not read", host=host, vm=vm, why=str(exc) or "it takes too long"
            )
            return b""


async def _relay(viewer: Viewer, reader: Reader, shared: Shared, *, view_only: bool) -> Close:
    async with asyncio.TaskGroup() as group:
        ways = [
            group.create_task(_to_vm(viewer, shared, view_only=view_only)),
            group.create_task(_to_viewer(viewer, reader, shared)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        ended = [way.result() for way in ways if way.done()]
        for way in ways:
            way.cancel()
    return ended[0]


async def _to_vm(viewer: Viewer, shared: Shared, *, view_only: bool) -> Close:
    try:
        while True:
            data = await viewer.hear(text=True)
            viewer.sent += len(data)
            if not view_only and shared.line is not None and not shared.line.send(data):
                return BAD_DATA  # a VM that reads nothing is sent no more than fits
    except Closed as exc:
        return exc.close


async def _to_viewer(viewer: Viewer, reader: Reader, shared: Shared) -> Close:
    while not (shared.ended.is_set() and not reader.buffer):
        await reader.told.wait()
        reader.told.clear()
        while reader.buffer:
            data = bytes(reader.buffer[:FRAME])
            del reader.buffer[:FRAME]
            try:
                await viewer.say(data)
            except ConnectionError:
                return ENDED
            shared.caught_up()
    return HUNG_UP
