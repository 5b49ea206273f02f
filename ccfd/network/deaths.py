"""Tells at once when a server ends that shall run: its pidfd wakes the event loop."""

import asyncio
from collections.abc import Callable

import structlog

from ccfd.network.processes import Server

log = structlog.get_logger(__name__)


class Deaths:
    """The servers that are watched, by the VNIs of their slices; *died* is told of each end."""

    def __init__(self, died: Callable[[int], None]) -> None:
        self._died = died
        self._watched: dict[int, Server] = {}

    def watch(self, vni: int, server: Server) -> None:
        """Watch the server of slice *vni* in place of an earlier one; the caller keeps its own."""
        known = self._watched.get(vni)
        if known is not None and known.pid == server.pid:
            return
        self.forget(vni)
        held = self._watched[vni] = server.held_again()
        asyncio.get_running_loop().add_reader(held, self._end, vni)

    def forget(self, vni: int) -> None:
        """Watch that server no more: it may end."""
        held = self._watched.pop(vni, None)
        if held is not None:
            asyncio.get_running_loop().remove_reader(held)
            held.close()

    def close(self) -> None:
        """Watch none any more."""
        for vni in tuple(self._watched):
            self.forget(vni)

    def _end(self, vni: int) -> None:
        log.warning("dhcp server has died", vni=vni, pid=self._watched[vni].pid)
        self.forget(vni)
        self._died(vni)
