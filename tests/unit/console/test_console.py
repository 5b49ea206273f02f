"""A console from its ticket to its close code, over real sockets."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from ccfd.console.consoles import Consoles
from ccfd.errors import Refused, Transient
from ccfd.settings import Console
from ccfd.store.database import Database
from ccfd.store.tables import host
from tests.unit.console.conftest import ORIGIN, Site, closed, greet, no_tls
from tests.vnc import Vnc

KEY = bytes((4, 1, 0, 0, 0, 0, 0, 65))
UPDATE = bytes((3, 1)) + bytes(8)


async def test_a_ticket_opens_the_screen_once(site: Site, vnc: Vnc) -> None:
    status, told = await site.ask("POST", f"/v1/vms/{site.vm}/console")
    assert status == 200
    assert set(told) == {"url", "websocket_url", "ticket", "expires_at"}
    ticket = told["ticket"]
    assert told["url"] == f"http://127.0.0.1:8780/console/{site.vm}?ticket={ticket}"
    assert told["websocket_url"] == f"ws://127.0.0.1:8780/console/ws?ticket={ticket}"
    async with site.dial(ticket) as socket:
        await greet(socket)
        await socket.send(KEY)
        await vnc.hears(KEY)
        (session,) = await site.sessions()
        assert (session["vm"], session["type"], session["opened_by"]) == (site.vm, "vnc", "portal")
        assert b"ccfd_console_sessions 1.0" in site.metrics.text()
        async with site.dial(ticket) as again:
            assert await closed(again) == (4403, "ticket used already: ask for a new one")
    await site.without_sessions()
    assert b"ccfd_console_sessions 0.0" in site.metrics.text()
    assert b'ccfd_console_bytes_total{direction="from_viewer"} 8.0' in site.metrics.text()
    assert not vnc.viewers


async def test_several_viewers_share_the_screen_and_one_more_is_told(site: Site, vnc: Vnc) -> None:
    async with site.viewer(), site.viewer():
        assert vnc.shared == [b"\x01", b"\x01"]
        ticket = await site.ticket()
        async with site.dial(ticket) as third:
            assert (await closed(third))[0] == 4429
    await site.without_sessions()
    async with site.dial(ticket) as third:  # it was not used up
        await greet(third)


async def test_who_may_only_look_sends_no_keys(site: Site, vnc: Vnc) -> None:
    async with site.viewer(view_only=True) as socket:
        for part in (KEY[:3], KEY[3:] + UPDATE[:1], UPDATE[1:] + KEY):
            await socket.send(part)
        await vnc.hears(UPDATE)
        assert (await site.sessions())[0]["view_only"] is True


@pytest.mark.parametrize(
    ("state", "code"), [("shutoff", 4409), ("crashed", 4409), ("deleting", 4404)]
)
async def test_a_vm_that_ends_takes_its_console_along(site: Site, state: str, code: int) -> None:
    ticket = await site.ticket()
    async with site.viewer() as socket:
        await site.set_state(state)
        assert (await closed(socket))[0] == code
    async with site.dial(ticket) as late:
        assert (await closed(late))[0] == code
    assert (await site.ask("POST", f"/v1/vms/{site.vm}/console"))[0] == 409


async def test_a_screen_that_hangs_up_is_told_with_its_reason(site: Site, vnc: Vnc) -> None:
    async with site.viewer() as socket:
        vnc.hang_up()
        assert (await closed(socket))[0] == 4502
    async with site.viewer() as socket:
        await asyncio.gather(site.set_state("shutoff"), asyncio.to_thread(lambda: None))
        vnc.hang_up()
        assert (await closed(socket))[0] == 4409


async def test_a_vm_that_stops_before_the_others_of_its_slice_has_its_reason_told(
    site: Site, vnc: Vnc
) -> None:
    async with site.viewer() as socket:
        # slice.stop still waits for the others: the database says "running".
        site.screens.error = Refused("invalid_state", "the VM is off")
        vnc.hang_up()
        assert (await closed(socket))[0] == 4409


async def test_a_screen_that_is_lost_with_its_host_is_told(site: Site, vnc: Vnc) -> None:
    async with site.viewer() as socket:
        await site.harness.database.run(
            lambda transaction: transaction.execute(update(host).values(up=False))
        )
        vnc.hang_up()
        assert (await closed(socket))[0] == 4503


async def test_a_host_that_is_down_is_told(site: Site) -> None:
    site.screens.error = Transient("host_unreachable", "no answer")
    async with site.dial(await site.ticket()) as socket:
        assert await closed(socket) == (4503, "the VM's host does not answer")


async def test_a_console_can_be_ended_by_whoever_may_open_it(site: Site) -> None:
    async with site.viewer() as socket:
        (session,) = await site.sessions()
        path = f"/v1/consoles/{session['console']}"
        assert (await site.ask("DELETE", path, role="viewer"))[0] == 403
        assert (await site.ask("DELETE", path))[0] == 200
        assert (await closed(socket))[0] == 4410
    await site.without_sessions()
    assert (await site.ask("DELETE", path))[0] == 404


async def test_any_ccfd_of_the_database_gives_tickets_and_ends_sessions(site: Site) -> None:
    database = Database(site.harness.settings.database)
    other = Consoles(
        Console(),
        database,
        site.screens,
        site.serials,
        site.logs,
        counters=site.metrics,
        tls=no_tls,
    )
    issued = await other.issue(site.vm, "vnc", view_only=False, to="portal")
    async with site.dial(issued.ticket) as socket:
        await greet(socket)
        (session,) = await site.sessions()
        await other.revoke(session["console"], "operator")
        assert (await closed(socket))[0] == 4410
    await database.close()


async def test_a_ccfd_that_stops_says_so(site: Site) -> None:
    async with site.viewer() as socket:
        await _stop(site)
        assert (await closed(socket))[0] == 1012
    ticket = await site.ticket()
    async with site.dial(ticket) as late:
        assert (await closed(late))[0] == 1012


async def _stop(site: Site) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(site.consoles.run())
        await asyncio.sleep(0)
        task.cancel()


async def test_whoever_opens_and_closes_is_in_the_audit_log_and_no_ticket(site: Site) -> None:
    with capture_logs() as logs:
        ticket = await site.ticket()
        async with site.dial(ticket) as socket:
            await greet(socket)
        await site.without_sessions()
        async with site.dial(ticket) as socket:
            await closed(socket)
    assert ticket not in repr(logs)
    told = {line["event"]: line for line in logs if line.get("audit")}
    assert set(told) == {
        "console ticket issued",
        "console opened",
        "console closed",
        "console refused",
    }
    assert told["console opened"]["by"] == "portal"
    assert told["console closed"]["remote"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        ({"type": "vnc", "view_only": True}, "", 200),
        (None, "?type=serial", 200),
        ({"type": "tty"}, "", 400),
        ({"view_only": 1}, "", 400),
        ({"colour": 1}, "", 400),
        ([], "", 400),
    ],
)
async def test_what_is_asked_for_is_read_strictly(
    site: Site, body: Any, query: str, status: int
) -> None:
    got, told = await site.ask("POST", f"/v1/vms/{site.vm}/console{query}", body)
    assert got == status, told
    if query:
        assert told["url"].endswith("&type=serial")


async def test_only_who_may_open_consoles_gets_tickets(site: Site) -> None:
    assert (await site.ask("POST", f"/v1/vms/{site.vm}/console", role="viewer"))[0] == 403
    assert (await site.ask("POST", "/v1/vms/nope/console"))[0] == 404


async def test_a_page_of_the_portal_may_open_consoles(site: Site) -> None:
    async with site.dial(await site.ticket(), origin=ORIGIN) as socket:
        await greet(socket)
