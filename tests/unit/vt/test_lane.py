"""A lane bounds, remembers and fails fast; one host's trouble is no other's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import libvirt
import pytest

from ccfd.errors import Refused, Transient
from ccfd.vt import api, lane, threads
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session
from tests.unit.vt.test_faults import error

SHORT = 0.05
"""Seconds that are meant to be over before what is waited for."""
AMPLE = 30.0
"""Seconds that are not, however busy the machine is."""


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a host that answers be in time, also where a test does not say how long it has."""
    for name in ("PROBE_WITHIN", "CONNECT_WITHIN"):
        monkeypatch.setattr(lane, name, AMPLE)


class Host:
    """A libvirtd that can be frozen, cut off and refused."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.running.set()
        self.refuses = False
        self.closing = threading.Event()
        self.opened: list[Wire] = []

    def connect(self, uri: str) -> api.Connection:
        self.running.wait(AMPLE)
        if self.refuses:
            raise error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Connection refused")
        wire = Wire(self)
        self.opened.append(wire)
        return cast("api.Connection", wire)


class Wire:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.alive = True
        self.closed = False

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        return int(self.alive)

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        self.host.running.wait(AMPLE)
        return 9_000_000

    def close(self) -> int:
        self.closed = True
        self.host.closing.set()
        return 0


@asynccontextmanager
async def lane_to(host: Host, concurrency: int = 4) -> AsyncIterator[Lane]:
    made = Lane("h1", "test", concurrency=concurrency, call_timeout=AMPLE, connect=host.connect)
    try:
        yield made
    finally:
        host.running.set()
        await made.close()


@asynccontextmanager
async def open_lane_to(host: Host) -> AsyncIterator[Lane]:
    """Have a connection already: no deadline is over before a call has begun."""
    async with lane_to(host) as made:
        await made.call(answer, 0)
        yield made


def answer(_session: Session, value: int) -> int:
    return value


def waiting(event: threading.Event) -> Callable[[Session], str]:
    def work(session: Session) -> str:
        event.wait(AMPLE)
        session.check()
        return "done"

    return work


async def test_a_call_runs_in_another_thread_on_one_connection() -> None:
    host = Host()
    async with lane_to(host) as h1:
        assert await h1.call(answer, 1) == 1
        assert await h1.call(lambda _session: threading.current_thread().name) == "libvirt-h1"
        assert len(host.opened) == 1


async def test_calls_at_once_are_bounded() -> None:
    host = Host()
    now = most = 0
    counted = threading.Lock()
    together = threading.Barrier(2)

    def work(_session: Session) -> None:
        nonlocal now, most
        with counted:
            now += 1
            most = max(most, now)
        together.wait(AMPLE)
        with counted:
            now -= 1

    async with lane_to(host, concurrency=2) as h1, asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(h1.call(work))
    assert most == 2


async def test_a_call_ends_at_its_deadline_and_the_loop_goes_on() -> None:
    host, release = Host(), threading.Event()
    async with open_lane_to(host) as h1:
        with pytest.raises(Transient) as late:
            await h1.effect("vm", SHORT, waiting(release))
        assert late.value.code == "host_unreachable"
        release.set()


async def test_a_late_call_is_told_to_stop_before_its_next_effect() -> None:
    host, release = Host(), threading.Event()
    went_on = threading.Event()

    def work(session: Session) -> None:
        release.wait(AMPLE)
        session.check()
        went_on.set()

    async with open_lane_to(host) as h1:
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, work)
        release.set()
        await h1.settled("vm")
        assert not went_on.is_set()


async def test_a_later_call_on_the_same_subject_waits_for_the_late_one() -> None:
    host, release = Host(), threading.Event()
    order: list[str] = []

    def make(_session: Session) -> None:
        release.wait(AMPLE)
        order.append("made")

    async with open_lane_to(host) as h1:
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, make)
        async with asyncio.TaskGroup() as group:
            group.create_task(h1.effect("vm", AMPLE, lambda _session: order.append("unmade")))
            await h1.effect("other", AMPLE, lambda _session: order.append("other"))
            release.set()
    assert order == ["other", "made", "unmade"]


async def test_a_later_call_waits_no_longer_than_its_own_deadline() -> None:
    host, release = Host(), threading.Event()
    async with open_lane_to(host) as h1:
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, waiting(release))
        assert await h1.probe(AMPLE), "the host is up: only the call is out"
        with pytest.raises(Transient) as waited:
            await h1.effect("vm", SHORT, answer, 1)
        assert "earlier call on vm" in waited.value.message
        with pytest.raises(Transient):
            await h1.settled(within=SHORT)
        release.set()
        await h1.settled()
        assert await h1.effect("vm", AMPLE, answer, 1) == 1


async def test_a_cancelled_call_is_remembered_too() -> None:
    host, release = Host(), threading.Event()
    async with open_lane_to(host) as h1:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await h1.effect("vm", AMPLE, waiting(release))
        with pytest.raises(Transient):
            await h1.settled("vm", SHORT)
        release.set()
        await h1.settled("vm")


async def test_a_frozen_host_is_found_out_once_and_then_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "PROBE_WITHIN", SHORT)
    host = Host()
    async with lane_to(host) as h1:
        h1._breaker.rest = AMPLE
        await h1.call(answer, 1)
        host.running.clear()
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, lambda session: session.connection.getLibVersion())
        assert not h1.up
        with pytest.raises(Transient):
            await h1.call(answer, 1)  # this one probes
        with monkeypatch.context() as nobody_is_asked:
            nobody_is_asked.setattr(threads, "start", None)
            with pytest.raises(Transient) as fast:
                await h1.call(answer, 1)
        assert fast.value.retry_in is not None
        assert 0 < fast.value.retry_in <= AMPLE


async def test_a_hung_call_that_returns_proves_the_host_up() -> None:
    host, release = Host(), threading.Event()
    async with open_lane_to(host) as h1:
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, waiting(release))
        assert not h1.up
        release.set()
        await h1.settled()
        assert h1.up


async def test_a_probe_that_succeeds_opens_the_lane_again() -> None:
    host = Host()
    host.refuses = True
    async with lane_to(host) as h1:
        with pytest.raises(Transient) as refused:
            await h1.call(answer, 1)
        assert "Connection refused" in refused.value.message
        assert not await h1.probe(SHORT)
        host.refuses = False
        assert await h1.probe(AMPLE)
        assert h1.up
        assert await h1.call(answer, 1) == 1


async def test_connecting_to_a_frozen_host_leaves_one_thread_however_often_it_is_tried() -> None:
    host = Host()
    host.running.clear()
    async with lane_to(host) as h1:
        before = threading.active_count()
        for _ in range(5):
            assert not await h1.probe(SHORT / 5)
        assert threading.active_count() <= before + 1
        host.running.set()
        assert await h1.probe(AMPLE)
        assert len(host.opened) == 1


async def test_a_frozen_host_costs_another_host_nothing() -> None:
    frozen, well = Host(), Host()
    frozen.running.clear()
    async with lane_to(frozen) as h1, lane_to(well) as h2, asyncio.TaskGroup() as group:
        hung = group.create_task(h1.probe(AMPLE))
        async with asyncio.timeout(AMPLE / 2):
            for value in range(20):
                assert await h2.call(answer, value) == value
        assert not hung.done()
        frozen.running.set()


async def test_a_lost_connection_is_opened_anew() -> None:
    host = Host()
    async with lane_to(host) as h1:
        await h1.call(answer, 1)
        host.opened[0].alive = False
        assert await h1.call(answer, 2) == 2
        assert len(host.opened) == 2


async def test_no_two_calls_are_ever_on_one_connection() -> None:
    host = Host()
    together = threading.Barrier(3)

    def work(session: Session) -> int:
        together.wait(AMPLE)
        return id(session.connection)

    async with lane_to(host) as h1:
        used = await asyncio.gather(h1.call(work), h1.call(work), h1.call(work))
        assert len(set(used)) == 3
        await h1.call(answer, 1)
        assert len(host.opened) == 3


async def test_after_a_connection_lost_under_a_call_the_next_one_leaves_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "GRACE", 2 * SHORT)
    host = Host()

    def cut(_session: Session) -> None:
        host.opened[0].alive = False
        raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "keepalive timeout")

    async with lane_to(host) as h1:
        with pytest.raises(Transient) as lost:
            await h1.effect("vm", AMPLE, cut)
        assert lost.value.code == "host_unreachable"
        before = asyncio.get_running_loop().time()
        await h1.effect("vm", AMPLE, answer, 1)
        assert asyncio.get_running_loop().time() - before >= 2 * SHORT


async def test_an_undo_that_waited_for_a_call_which_lost_its_connection_leaves_a_moment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "GRACE", 2 * SHORT)
    host, release = Host(), threading.Event()

    def cut_late(_session: Session) -> None:
        release.wait(AMPLE)
        host.opened[0].alive = False
        raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "keepalive timeout")

    async with open_lane_to(host) as h1:
        with pytest.raises(Transient):
            await h1.effect("vm", SHORT, cut_late)
        async with asyncio.TaskGroup() as group:
            undo = group.create_task(h1.effect("vm", AMPLE, answer, 1))
            await h1.effect("other", AMPLE, answer, 1)  # the host is up: only "vm" waits
            assert not undo.done()
            before = asyncio.get_running_loop().time()
            release.set()
        assert asyncio.get_running_loop().time() - before >= 2 * SHORT


async def test_a_call_that_is_cancelled_while_it_leaves_a_moment_loses_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    async with lane_to(host) as h1:
        await h1.call(answer, 1)
        monkeypatch.setattr(h1, "_quiet_until", asyncio.get_running_loop().time() + 60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await h1.call(answer, 1)
        monkeypatch.setattr(h1, "_quiet_until", 0.0)
        await h1.call(answer, 1)
        assert len(host.opened) == 1


async def test_a_drivers_own_refusal_and_a_defect_pass_unchanged() -> None:
    def refuse(_session: Session) -> None:
        raise Refused("image_not_found", "gone")

    def fail(_session: Session) -> None:
        raise ZeroDivisionError

    async with lane_to(Host()) as h1:
        with pytest.raises(Refused, match="gone"):
            await h1.call(refuse)
        with pytest.raises(ZeroDivisionError):
            await h1.call(fail)


async def test_closing_closes_the_connection_and_refuses_what_comes_later() -> None:
    host = Host()
    async with lane_to(host) as h1:
        await h1.call(answer, 1)
        await h1.close()
        assert host.opened[0].closed
        with pytest.raises(Transient):
            await h1.call(answer, 1)


async def test_a_connection_that_comes_after_closing_is_closed() -> None:
    host = Host()
    host.running.clear()
    async with lane_to(host) as h1:
        assert not await h1.probe(SHORT)
        await h1.close()
        host.running.set()
        assert await asyncio.to_thread(host.closing.wait, AMPLE)
