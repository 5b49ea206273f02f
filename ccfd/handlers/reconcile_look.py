"""What hosts and the network node hold of ours: every place is asked at once."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from ccfd.errors import CcfdError
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import Present, SeenHost
from ccfd.model import names
from ccfd.network.inventory import Inventory
from ccfd.network.node import SeenSlice
from ccfd.settings import Settings
from ccfd.vt.domains import Found

T = TypeVar("T")

WITHIN = 15.0
"""Seconds that a place may take to answer."""


class Switches(Protocol):
    """Who can list a switch."""

    async def inventory(self, host: str) -> Inventory:
        """List what *host*'s switch holds of ours."""


class DomainLists(Protocol):
    """Who can list a host's domains."""

    async def inventory(self, host: str) -> tuple[Found, ...]:
        """List our domains on *host*."""


class VolumeLists(Protocol):
    """Who can list a host's volumes."""

    async def inventory(self, host: str) -> frozenset[str]:
        """Name the volumes of VMs on *host*."""


class NodeLists(Protocol):
    """Who can list the network node."""

    async def inventory(self) -> tuple[SeenSlice, ...]:
        """List what slices hold there."""


class Look:
    """Asks every place; one that does not answer in time is left out and named."""

    def __init__(
        self,
        settings: Settings,
        *,
        switches: Switches,
        domains: DomainLists,
        volumes: VolumeLists,
        node: NodeLists,
    ) -> None:
        layout = Layout(settings)
        self._hosts = [host.name for host in settings.host]
        self._places = sorted({names.NODE, *map(layout.switch_of, self._hosts)})
        self._switches = switches
        self._domains = domains
        self._volumes = volumes
        self._node = node

    async def look(self) -> tuple[Present, dict[str, str]]:
        """Return what was seen, and who said nothing and why."""
        silent: dict[str, str] = {}

        async def ask(place: str, question: Awaitable[T]) -> T | None:
            try:
                async with asyncio.timeout(WITHIN):
                    return await question
            except CcfdError as exc:
                silent[place] = exc.message
            except TimeoutError:
                silent[place] = f"no answer within {WITHIN:g} s"
            return None

        async with asyncio.TaskGroup() as group:

            def all_of(questions: Iterable[tuple[str, str, Awaitable[T]]]) -> Any:
                return {
                    name: group.create_task(ask(place, question))
                    for name, place, question in questions
                }

            node = group.create_task(ask("network node", self._node.inventory()))
            switches = all_of(
                (name, f"switch of {name}", self._switches.inventory(name)) for name in self._places
            )
            hosts = all_of((name, f"libvirt of {name}", self._host(name)) for name in self._hosts)
        return (
            Present(switches=_answers(switches), hosts=_answers(hosts), node=node.result()),
            silent,
        )

    async def _host(self, name: str) -> SeenHost:
        return SeenHost(
            domains=await self._domains.inventory(name),
            volumes=await self._volumes.inventory(name),
        )


def _answers(asked: Mapping[str, "asyncio.Task[T | None]"]) -> dict[str, T]:
    answers = {name: task.result() for name, task in asked.items()}
    return {name: answer for name, answer in answers.items() if answer is not None}
