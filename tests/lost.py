"""ccfd whose database is lost while its hosts go on, for tests that make it again."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Table, select

from ccfd.documents import COLLECTIONS
from ccfd.handlers.reconcile import Reconciler
from ccfd.handlers.recover import Recovery
from ccfd.model.vm import Machine
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.workflow.intake import Intake
from tests.harness import Harness, lab_settings
from tests.twins import GuardsTwin, LookTwin, World
from tests.unit.handlers.test_slice_story import VM

Rows = dict[str, list[dict[str, Any]]]

# A recovered slice has another pair: nobody else has the private half.
KEY = ("ssh_public_key", "ssh_sealed_key")

HELD: dict[str, tuple[Table, frozenset[str]]] = {
    "slices": (tables.slices, frozenset({"expiry_announced", *KEY})),
    "vms": (tables.vm, frozenset()),
    # How long the reservation would have lasted has no meaning after it was confirmed.
    "subnets": (tables.subnet, frozenset({"id", "timeout"})),
    "addresses": (tables.address, frozenset({"subnet"})),
    "blocks": (tables.block, frozenset()),
    "hosts": (tables.host, frozenset()),
}


class Lost:
    """A ccfd over a world; *empty* makes an empty database, and says where it is."""

    def __init__(self, empty: Callable[[], Awaitable[str]]) -> None:
        self._empty = empty
        self._harness: Harness | None = None
        self.world = World()
        self.look = LookTwin(self.world)

    @property
    def harness(self) -> Harness:
        """The ccfd of today."""
        assert self._harness is not None, "fresh comes first"
        return self._harness

    async def close(self) -> None:
        """Lose the database."""
        if self._harness is not None:
            await self._harness.database.close()
            self._harness = None

    async def fresh(self, **changed: Any) -> None:
        """Begin with an empty database; *changed* are sections of the settings."""
        await self.close()
        config = lab_settings(await self._empty()).model_copy(update=changed)
        self._harness = Harness(config, self.world)
        await self.harness.prepare()

    @property
    def settings(self) -> Settings:
        """Its settings."""
        return self.harness.settings

    async def make(self, *slices: dict[str, Any]) -> None:
        """Make slices."""
        async with self.running():
            for one in slices:
                made = await self.harness.ask("slice.create", gateway=False, **one)
                assert made["outcome"] == "succeeded", made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry requests out meanwhile."""
        self.harness.engine = self.harness.fresh_engine()
        async with self.harness.running():
            yield

    def recovery(self) -> Recovery:
        """Make its recovery."""
        return Recovery(self.settings, self.harness.database, self.look)

    async def apply(self) -> dict[str, Any]:
        """Recover from what hosts hold."""
        return await self.recovery().apply()

    async def left_out(self) -> dict[str, str]:
        """Recover; return what was left out, and why."""
        done = await self.apply()
        return {one["slice"]: one["why"] for one in done["left_out"]}

    async def differences(self) -> dict[str, Any]:
        """Compare with hosts, as `ccfctl reconcile --plan`."""
        intake = Intake(self.harness.handlers, lambda _kind, _code: None)
        reconciler = Reconciler(
            self.settings,
            self.harness.database,
            intake,
            self.look,
            guards=GuardsTwin(self.world),
            leads=lambda: True,
        )
        return await reconciler.plan()

    async def held(self) -> tuple[Rows, dict[str, Any]]:
        """Return what the database holds: rows, and the documents that the API shows."""
        rows: Rows = {}
        documents: dict[str, Any] = {}
        async with self.harness.database.read() as tx:
            for name, (table, without) in HELD.items():
                columns = [one for one in table.c if one.name not in without]
                found = await tx.all(select(*columns))
                rows[name] = sorted((dict(row._mapping) for row in found), key=str)
            item = tables.pool_item.c
            taken = select(item.pool, item.number, item.owner).where(item.owner.is_not(None))
            rows["pooled"] = sorted((dict(r._mapping) for r in await tx.all(taken)), key=str)
            for name in ("slices", "vms", "subnets", "networks", "hosts"):
                documents[name] = await COLLECTIONS[name].page(1000, None, {}, tx)
        return rows, documents

    def domain(self, name: str) -> tuple[tuple[str, str], Machine]:
        """Find the domain of VM *name*."""
        (found,) = [(at, one) for at, one in self.world.domains.items() if one.name == name]
        return found

    def retell(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what the domain of VM *name* tells."""
        at, machine = self.domain(name)
        about = json.loads(machine.about)
        change(about)
        self.world.domains[at] = replace(machine, about=json.dumps(about))

    def retell_bridges(self, vni: int, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what the bridges of a slice tell."""
        for at, text in list(self.world.abouts.items()):
            if at[1] == vni:
                about = json.loads(text)
                change(about)
                self.world.abouts[at] = json.dumps(about)


def two(name: str, **more: Any) -> dict[str, Any]:
    """Describe a slice of two VMs."""
    return {"slice": name, "vms": [{"name": "a" + name, **VM}, {"name": "b" + name, **VM}], **more}


NOTHING_DIFFERS: dict[str, Any] = {
    "repairs": [],
    "states": [],
    "unfinished": [],
    "lost": [],
    "flows": [],
    "unseen": {},
}
