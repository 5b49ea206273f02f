"""Who hears what a host tells, also after its connection has broken."""

import asyncio
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from ccfd.vt import events
from ccfd.vt.events import DomainEvents
from tests.unit.vt.test_faults import error


class Domain:
    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return self._uuid


class Connection:
    """A connection to a libvirtd that tells of domains; `refuses` cannot register anybody."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.alive = True
        self.closed = False
        self.listeners: dict[int, Callable[..., None]] = {}
        self._refuses = refuses

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        return self.alive

    def domainEventRegisterAny(  # noqa: N802 - libvirt's name
        self, _dom: None, kind: int, callback: Callable[..., None], _opaque: None
    ) -> int:
        if self._refuses:
            raise error(libvirt.VIR_ERR_RPC)
        assert kind == libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self.listeners[7] = callback
        return 7

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802 - libvirt's name
        del self.listeners[number]
        if not self.alive:
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR)

    def close(self) -> int:
        assert not self.listeners, "a callback keeps a connection open"
        self.closed = True
        return 0

    def tell(self, uuid: str) -> None:
        for listener in self.listeners.values():
            listener(self, Domain(uuid), 5, 1, None)


class Heard:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def changed(self, host: str, vm: str) -> None:
        self.told.append((host, vm))

    def missed(self, host: str) -> None:
        self.told.append((host,))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.told) < count:
                await asyncio.sleep(0.005)


async def test_a_broken_connection_is_made_anew_and_its_host_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "LOOK", 0.005)
    monkeypatch.setattr(events, "PAUSE", 0.005)
    first, third = Connection(), Connection()
    refusing = Connection(refuses=True)
    connections: list[Any] = [first, refusing, third]
    heard = Heard()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            DomainEvents({"h1": "test:///"}, lambda _uri: connections.pop(0)).run(heard)
        )
        await heard.until(1)
        first.tell("a")
        await heard.until(2)
        first.alive = False
        await heard.until(3)
        third.tell("b")
        await heard.until(4)
        task.cancel()
    assert heard.told == [("h1",), ("h1", "a"), ("h1",), ("h1", "b")]
    async with asyncio.timeout(60):
        while not (first.closed and refusing.closed and third.closed):
            await asyncio.sleep(0.005)
