"""Who feeds the watchdog, and what Prometheus hears of it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from ccfd import pulse
from ccfd.bus.bus import Bus
from ccfd.daemon import Daemon
from ccfd.pulse import PATIENCE, Pulse
from ccfd.settings import Broker
from tests.harness import AMPLE, Harness, lab_settings

NOBODY = "amqp://guest:guest@127.0.0.1:1/"  # the port tcpmux, which nobody serves


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("part", PATIENCE)
def test_one_part_that_stands_still_is_enough(part: str) -> None:
    clock = Clock()
    beat = Pulse(clock)
    clock.now += PATIENCE[part] + 1
    for other in PATIENCE:
        if other != part:
            beat.turned(other)
    assert beat.still == {part}
    assert not beat.is_alive()
    beat.turned(part)
    assert beat.is_alive()


async def test_a_loop_that_was_held_up_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "TICK", 0.01)
    late: list[float] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(Pulse(time.monotonic).run(late.append))
        await asyncio.sleep(0)
        time.sleep(0.2)
        while not late:
            await asyncio.sleep(0.001)
        running.cancel()
    assert late[0] > 0.15


@pytest.fixture
async def beats(harness: Harness) -> AsyncIterator[list[str]]:
    """Whatever turns, with a broker that is not there."""
    told: list[str] = []
    bus = Bus(
        Broker(url=NOBODY),
        harness.database,
        harness.intake,
        lambda _reason: None,
        lambda: True,
        turned=lambda: told.append(pulse.BROKER),
    )
    timers = harness.timers(turned=lambda: told.append(pulse.DATABASE))
    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(part.run()) for part in (bus, timers)]
        yield told
        for part in parts:
            part.cancel()


@pytest.mark.parametrize("part", [pulse.BROKER, pulse.DATABASE])
async def test_what_tries_again_is_alive(beats: list[str], part: str) -> None:
    async with asyncio.timeout(AMPLE):
        while beats.count(part) < 2:
            await asyncio.sleep(0.01)


def test_prometheus_hears_who_is_there() -> None:
    daemon = Daemon(lab_settings("sqlite+aiosqlite://"))
    daemon._ticked(0.02)
    told = daemon.metrics.text().decode()
    assert 'ccfd_last_heartbeat_timestamp_seconds{of="loop"} ' in told
    assert 'ccfd_last_heartbeat_timestamp_seconds{of="database"} ' in told
    assert 'ccfd_last_heartbeat_timestamp_seconds{of="broker"} ' not in told, "never connected"
    assert "ccfd_broker_consumer 0.0" in told
    assert 'ccfd_loop_lag_seconds_bucket{le="0.01"} 0.0' in told
    assert 'ccfd_loop_lag_seconds_bucket{le="0.025"} 1.0' in told
