"""Tells when a slice's network namespace is gone that somebody else has removed.

The directory of their names is looked at every second: one system call, where nothing changes.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from ccfd.model import names
from ccfd.network import state
from ccfd.settings import Settings

EVERY = 1.0


class NamespaceWatch:
    """The namespaces of this machine's slices; *lost* is told the name of each that is gone."""

    def __init__(self, settings: Settings, lost: Callable[[str], None]) -> None:
        self._state = Path(settings.network_node.state)
        self._lost = lost
        self._changed = 0
        self._there: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            self.look()
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        """Compare what there is with the last look."""
        try:
            changed = state.NETNS.stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        if changed == self._changed:
            return
        there = frozenset(os.listdir(state.NETNS) if changed else ())
        gone, self._there, self._changed = self._there - there, there, changed
        for name in sorted(gone):
            # Whoever closes a namespace of ours gives its claim up right after.
            vni = name.removeprefix(names.PREFIX)
            if vni.isdecimal() and state.owner(state.folder(self._state, int(vni))) is not None:
                self._lost(name)
