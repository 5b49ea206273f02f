"""Consoles of several ccfd on one PostgreSQL: what one gives out or ends, all know of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from ccfd.settings import Console
from tests.harness import Harness
from tests.rows import run_vm
from tests.unit.console.conftest import Site, closed, greet, serving
from tests.vnc import Vnc


@pytest.fixture
async def two(pair: tuple[Harness, Harness], tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Two ccfd, each with its API, and a VM that runs."""
    one, other = pair
    limits, vm = Console(sessions_per_vm=2), str(uuid4())
    await one.database.run(lambda transaction: run_vm(vm, transaction))
    async with (
        Vnc().on_socket(tmp_path / "vnc.sock") as screen,
        serving(one, limits, vm, screen) as first,
        serving(other, limits, vm, screen) as second,
    ):
        yield first, second


async def test_a_ticket_opens_its_console_once_on_whichever_ccfd(two: tuple[Site, Site]) -> None:
    for one, other in (two, two[::-1]):
        ticket = await one.ticket()
        async with other.dial(ticket) as socket:
            await greet(socket)
            for late in two:
                async with late.dial(ticket) as again:
                    assert (await closed(again))[0] == 4403
            assert await one.sessions() == await other.sessions() != []
        await other.without_sessions()


async def test_a_ccfd_ends_what_another_serves(two: tuple[Site, Site]) -> None:
    one, other = two
    async with other.viewer() as socket:
        (session,) = await one.sessions()
        path = f"/v1/consoles/{session['console']}"
        assert (await one.ask("DELETE", path))[0] == 200
        assert await closed(socket) == (4410, "the console was closed by an operator")
    await one.without_sessions()
    assert (await other.ask("DELETE", path))[0] == 404


async def test_a_vm_has_no_more_viewers_for_there_being_more_ccfd(two: tuple[Site, Site]) -> None:
    one, other = two
    async with one.viewer(), other.viewer():
        for late in two:
            async with late.dial(await late.ticket()) as socket:
                assert (await closed(socket))[0] == 4429


async def test_a_vm_that_stops_ends_its_consoles_on_all_ccfd(two: tuple[Site, Site]) -> None:
    one, other = two
    async with one.viewer() as here, other.viewer() as there:
        await one.set_state("shutoff")
        for socket in (here, there):
            assert (await closed(socket))[0] == 4409
