"""A stored form: how it is recorded, and how it becomes a database with a request under way."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from ccfd import __version__
from ccfd.errors import Refused
from ccfd.handlers.reconcile_events import repairs
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.workflow.journal import Journal
from ccfd.workflow.steps import Effects, Steps
from tests.chaos.life import resolved
from tests.chaos.scenarios import SCENARIOS, SLICE, Scenario, create, vm
from tests.harness import Harness, template

FOLDER = Path(__file__).parent
NAME = "the-request"
GONE = "gone"
"""The daemon that had begun it."""
# What was said and who is alive is no part of a workflow.
LEFT_OUT = ("outbox", "daemon")
GHOST = "a4c1a0e2-7f0e-4f57-9a41-2f6f3c6a0b11"


def thing(kind: str, host: str, of: str = "1") -> dict[str, str]:
    """Name something on a host, as the reconciler does; the first slice has VNI 1."""
    return {"kind": kind, "name": f"ccf-{of}", "host": host}


NETWORK = [thing("namespace", "node"), thing("bridge", "node"), thing("bridge", "h1")]
NOBODYS = [thing(kind, "node", "77") for kind in ("bridge", "namespace", "dhcp")]
STORIES = (
    *(scenario for scenario in SCENARIOS if len(scenario.asks) == 1),
    Scenario(
        story="network",
        before=(create(vm("a", "h1")),),
        asks=(("slice.repair", {"slice": SLICE, "things": NETWORK}),),
    ),
    Scenario(
        story="all kinds",
        asks=(
            (
                "orphan.remove",
                {
                    "slice": "ghost",
                    "things": [
                        *NOBODYS,
                        *(thing(kind, "h1", GHOST) for kind in ("domain", "disk")),
                    ],
                },
            ),
        ),
    ),
)
"""What is recorded, where it shows something new: a step, or the way back."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The rows of each table, the lines of the journal, and the terminal result."""

    event: str
    story: str
    rows: dict[str, list[dict[str, Any]]]
    journal: list[str]
    terminal: dict[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """The row of the request."""
        (row,) = [row for row in self.rows["request"] if row["request_id"] == NAME]
        return row

    @property
    def steps(self) -> Steps:
        """Its steps."""
        return Steps.from_json(self.request["steps"])

    def at(self, lines: int) -> Journal:
        """Read the journal as it stood after so many lines."""
        return Journal.read("".join(self.journal[:lines]), self.steps)

    @property
    def shows(self) -> frozenset[str]:
        """Name its steps, and the way that it takes through them."""
        return frozenset({step.name for step in self.steps.flat} | {self.terminal["outcome"]})

    @property
    def path(self) -> Path:
        """Where this release keeps it."""
        name = f"{self.event}-{self.story}".replace(" ", "-").replace(",", "")
        return FOLDER / __version__ / f"{name}.json"


def kept() -> dict[Path, Form]:
    """Read all stored forms of all releases."""
    return {path: Form(**json.loads(path.read_text())) for path in sorted(FOLDER.glob("*/*.json"))}


def serve_repairs(harness: Harness) -> None:
    """Have *harness* serve what only the reconciler sends, too."""
    harness.handlers.update(repairs(harness.settings, lambda _kind: None))


async def record(story: Scenario, directory: Path, empty: Path) -> Form | None:
    """Carry *story* out; return its form, or None where its request is done without steps."""
    async with Harness.opened(directory, empty) as harness:
        serve_repairs(harness)
        async with harness.running():
            for ask in story.before:
                kind, body = await resolved(ask, harness)
                made = await harness.ask(kind, **body)
                assert made["outcome"] == "succeeded", made
            rows: dict[str, list[dict[str, Any]]] = {}
            fault = story.fault()

            async def trap(call: str, args: Any) -> None:
                if not rows:
                    rows.update(await _read(harness))
                await fault(call, args)

            harness.world.trap = trap
            kind, body = await resolved(story.asks[0], harness)
            terminal = await harness.terminal(await harness.send(kind, NAME, **body))
            after = await _read(harness)
    if not rows or terminal.get("compensated") is False:
        return None
    (seq,) = [row["seq"] for row in after["request"] if row["request_id"] == NAME]
    (log,) = [row["journal"] for row in after["workflow"] if row["seq"] == seq]
    lines = log.splitlines(keepends=True)
    return Form(event=kind, story=story.story, rows=rows, journal=lines, terminal=terminal)


async def _read(harness: Harness) -> dict[str, list[dict[str, Any]]]:
    async with harness.database.read() as transaction:
        return {
            table.name: [
                {name: _to_json(value) for name, value in row._mapping.items()}
                for row in await transaction.all(select(table).order_by(*table.primary_key))
            ]
            for table in tables.metadata.sorted_tables
            if table.name not in LEFT_OUT
        }


def _to_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


async def restore(form: Form, lines: int, harness: Harness) -> None:
    """Leave what a daemon left that died when so many *lines* of the journal were stored.

    The hosts hold what the steps up to there have made.
    """
    journal = form.at(lines)

    async def write(transaction: Transaction) -> None:
        for table in tables.metadata.sorted_tables:
            if found := form.rows.get(table.name):
                times = {c.name for c in table.c if isinstance(c.type, tables.UtcTime)}
                loaded = [_from_json(row, times) for row in found]
                for row in loaded:
                    if row.get("request_id") == NAME and journal.backward:
                        row["state"] = "undoing"
                    if row.get("owner") and table is tables.workflow:
                        row.update(_left(row, "".join(form.journal[:lines]), form))
                await transaction.execute(insert(table), loaded)

    await harness.database.run(write)
    effects = harness.world.effects()
    for row in form.rows["request"]:
        if row["state"] == "succeeded" and row["steps"]:
            done = Steps.from_json(row["steps"])
            await _do(done, len(done.stages), effects)
    await _do(form.steps, journal.stage + journal.backward, effects)


def _left(row: dict[str, Any], log: str, form: Form) -> dict[str, Any]:
    """Say who had the workflow, and how far it had come if it is the one that is told of."""
    awaits = row["owner"] == "children"
    is_told = row["seq"] == form.request["seq"]
    return {"owner": row["owner"] if awaits else GONE, "journal": log if is_told else ""}


def _from_json(row: dict[str, Any], times: set[str]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in times and value is not None else value
        for name, value in row.items()
    }


async def _do(steps: Steps, stages: int, effects: Effects) -> None:
    for stage in steps.stages[:stages]:
        for step in stage:
            effect = effects[step.name]
            with suppress(Refused):  # it may be the one that had the workflow turn back
                await effect.do(effect.read(step.args))


def lost(stored: Any, again: Any, where: str = "") -> Iterator[str]:
    """Name what is in *stored* and not in *again*: a field that nobody reads any more."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for name, value in stored.items():
            if name in again:
                yield from lost(value, again[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for number, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif stored != again:
        yield where


def write_missing() -> list[Path]:
    """Record each story that shows what no stored form of its event shows; return the files."""
    shown = {(form.event, what) for form in kept().values() for what in form.shows}
    written = []
    with tempfile.TemporaryDirectory() as name:
        empty = template(Path(name))
        for number, story in enumerate(STORIES):
            directory = Path(name) / str(number)
            directory.mkdir()
            form = asyncio.run(record(story, directory, empty))
            if form is None or {(form.event, what) for what in form.shows} <= shown:
                continue
            shown |= {(form.event, what) for what in form.shows}
            form.path.parent.mkdir(exist_ok=True)
            form.path.write_text(json.dumps(asdict(form), indent=1) + "\n")
            written.append(form.path)
    return written
