"""A session that was lost is taken up again by our own page, and by nobody else."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Select, select
from websockets.asyncio.client import ClientConnection

from ccfd.console import ledger
from ccfd.store import tables
from tests.harness import AMPLE
from tests.unit.console.conftest import Site, closed, greet

OURS = ["ccfd", "binary"]


async def introduced(socket: ClientConnection) -> dict[str, Any]:
    """Read what our own page is told first."""
    assert socket.subprotocol == "ccfd"
    told = await socket.recv()
    assert isinstance(told, str)
    about: dict[str, Any] = json.loads(told)
    return about


async def _value(site: Site, query: Select[Any]) -> Any:
    async with site.harness.database.read() as transaction:
        return await transaction.scalar(query)


async def test_our_page_is_told_what_it_shows_and_how_to_come_back(site: Site) -> None:
    async with site.dial(await site.ticket(view_only=True), subprotocols=OURS) as socket:
        about = await introduced(socket)
        await greet(socket)
        (session,) = await site.sessions()
    assert about["console"] == session["console"]
    assert (about["name"], about["slice"], about["view_only"]) == ("a", "demo", True)
    await site.without_sessions()
    async with site.dial(about["again"], subprotocols=OURS) as socket:
        later = await introduced(socket)
        await greet(socket)
        (session,) = await site.sessions()
    # It may do what the first might, for the same caller, and once.
    assert (session["view_only"], session["opened_by"]) == (True, "portal")
    assert later["again"] != about["again"]
    async with site.dial(about["again"]) as socket:
        assert (await closed(socket))[0] == 4403


async def test_others_are_told_nothing(site: Site) -> None:
    async with site.viewer() as socket:
        assert socket.subprotocol == "binary"
    async with site.dial(await site.ticket()) as socket:
        assert socket.subprotocol is None
        await greet(socket)


async def test_who_was_thrown_out_does_not_come_back(site: Site) -> None:
    async with site.dial(await site.ticket(), subprotocols=OURS) as socket:
        about = await introduced(socket)
        await greet(socket)
        status, _ = await site.ask("DELETE", f"/v1/consoles/{about['console']}")
        assert status == 200
        assert (await closed(socket))[0] == 4410
    async with site.dial(about["again"]) as socket:
        assert (await closed(socket))[0] == 4410


async def test_the_way_back_is_open_as_long_as_the_session_lives_and_a_ticket_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SEEN_EVERY", 0.0)
    database = site.harness.database

    def pass_by(**time: int) -> None:
        later, clock = timedelta(**time), database.clock
        monkeypatch.setattr(database, "clock", lambda: clock() + later)

    async with site.dial(await site.ticket(), subprotocols=OURS) as socket:
        about = await introduced(socket)
        await greet(socket)
        pass_by(hours=3)
        expiry = select(tables.console.c.expires_at).where(
            tables.console.c.follows == about["console"]
        )
        async with asyncio.timeout(AMPLE):
            while await _value(site, expiry) < database.clock():
                await asyncio.sleep(0.01)
    async with site.dial(about["again"], subprotocols=OURS) as socket:
        last = await introduced(socket)
        await greet(socket)
    await site.without_sessions()
    pass_by(seconds=61)
    async with site.dial(last["again"]) as socket:
        assert (await closed(socket))[0] == 4402
