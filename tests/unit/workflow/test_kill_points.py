"""A daemon that dies at any call, before or after the call's effect, loses and leaves nothing.

The database is the embedded one on a real file; "dying" is to stop everything at once and to open
a new ccfd on the same file and the same hosts.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ccfd.errors import Refused
from tests.harness import AMPLE, Harness, lab_settings
from tests.twins import World
from tests.unit.handlers.test_slice_story import NOTHING, VM

VMS = [{"name": "a", **VM}, {"name": "b", **VM}]
CREATE = {"slice": "demo", "gateway": False, "vms": VMS}


class Died(BaseException):
    """The daemon is gone: no handler of exceptions may see this."""


async def list_calls(directory: Path, empty: Path, scenario: "Scenario") -> list[str]:
    """Return the calls (each seen twice: before and after) that a scenario makes."""
    seen: list[str] = []

    async def trap(call: str, args: Any) -> None:
        await asyncio.sleep(0)
        await scenario.fault(call, args)
        seen.append(call)

    harness = await start(directory, empty)
    request = await scenario.prepare(harness)
    harness.world.trap = trap
    async with harness.running():
        await harness.terminal(await request())
    await harness.database.close()
    return seen


async def start(directory: Path, empty: Path, world: World | None = None) -> Harness:
    """Open a ccfd on the directory's database, made of *empty* at the first time."""
    path = directory / "ccfd.db"
    fresh = not path.exists()
    if fresh:
        shutil.copy(empty, path)
    harness = Harness(lab_settings(f"sqlite+aiosqlite:///{path}"), world or World())
    if fresh:
        await harness.prepare()
    return harness


class Scenario:
    """A request, what must be there before it, and which call is refused."""

    def __init__(
        self,
        before: list[tuple[str, dict[str, Any]]],
        last: tuple[str, dict[str, Any]],
        refused: str | None = None,
    ) -> None:
        self._before = before
        self._last = last
        self._refused = refused

    async def fault(self, call: str, args: Any) -> None:
        """Refuse the call that this scenario refuses."""
        if call == self._refused and getattr(args, "name", "b") == "b":
            raise Refused("hypervisor_error", "no more memory")

    async def prepare(self, harness: Harness) -> Callable[[], Awaitable[str]]:
        """Make what must be there; return how to send the request."""
        if self._before:
            async with harness.running():
                for kind, body in self._before:
                    made = await harness.ask(kind, **body)
                    assert made["outcome"] == "succeeded", made
            harness.engine = harness.fresh_engine()
        kind, body = self._last
        return lambda: harness.send(kind, message_id="the-request", **body)


# `make chaos` goes through all events, with SIGKILL.
SCENARIOS = {
    "slice.create, refused at boot": Scenario([], ("slice.create", CREATE), "domains.boot:before"),
    "slice.delete": Scenario([("slice.create", CREATE)], ("slice.delete", {"slice": "demo"})),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_kill_at_any_call_loses_and_leaves_nothing(
    name: str, empty_database: Path, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    calls = await list_calls(_directory(tmp_path, "list"), empty_database, scenario)
    assert len(calls) > 2
    # To die before a call is to die after the one before it, but for the first.
    victims = [number for number, call in enumerate(calls) if number == 0 or ":after" in call]
    # Every other one finds a mistake within seconds; `make chaos` leaves none out.
    for victim in victims[::2]:
        await _killed_at(victim, _directory(tmp_path, str(victim)), empty_database, scenario)


def _directory(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


async def _killed_at(victim: int, directory: Path, empty: Path, scenario: Scenario) -> None:
    harness = await start(directory, empty)
    request = await scenario.prepare(harness)
    seen = 0
    dead = False

    async def deadly(call: str, args: Any) -> None:
        nonlocal seen, dead
        await asyncio.sleep(0)
        if dead:
            raise Died
        await scenario.fault(call, args)
        if seen == victim:
            dead = True
            raise Died
        seen += 1

    harness.world.trap = deadly
    identity = await request()
    with pytest.raises(BaseExceptionGroup):
        async with asyncio.timeout(AMPLE):
            await harness.run_to_death()
    await harness.database.close()

    async def faulty(call: str, args: Any) -> None:
        await asyncio.sleep(0)
        await scenario.fault(call, args)

    harness.world.trap = faulty
    again = await start(directory, empty, harness.world)
    async with again.running():
        terminal = await again.terminal(identity)
        said = [key for key, body in await again.said() if body.get("request_id") == identity]
        assert [key.rpartition(".")[2] for key in said] == ["accepted", terminal["outcome"]]
        await _check_all_or_nothing(terminal, again)
        if "slice.delete" not in terminal["type"]:
            again.world.trap = _pass
            await again.ask("slice.delete", slice="demo")
        assert again.world.leftovers() == {}
        assert await again.claims() == NOTHING
    await again.database.close()


async def _pass(_call: str, _args: Any) -> None:
    await asyncio.sleep(0)


async def _check_all_or_nothing(terminal: dict[str, Any], harness: Harness) -> None:
    world, kind = harness.world, terminal["type"]
    assert len(world.boots) == len(set(world.boots)), "no VM was started twice"
    if terminal["outcome"] == "failed":
        assert terminal["compensated"] is True
    expected = {
        ("slice.create", "succeeded"): 2,
        ("slice.create", "failed"): 0,
        ("slice.delete", "succeeded"): 0,
        ("vm.create", "succeeded"): 2,
        ("vm.create", "failed"): 1,
        ("vm.delete", "succeeded"): 1,
    }[kind, terminal["outcome"]]
    assert len(world.domains) == len(world.disks) == expected
    claims = await harness.claims()
    assert claims["cpu"] == claims["addresses"] == expected
    if kind == "slice.create" and terminal["outcome"] == "failed":
        assert world.leftovers() == {}
        assert claims == NOTHING
