"""How long a guest is waited for, and how often its power button is pressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import libvirt
import pytest

from ccfd.errors import Refused
from ccfd.vt import api, shutdown
from ccfd.vt.lane import Lane
from tests.unit.vt.test_faults import error
from tests.unit.workflow.lives import Clock, Loop

OURS = '<vm xmlns="urn:ccfd:domain:1" slice="demo" name="a" kind="slice" mac="" digest=""/>'
GRACE = 12.0


class Guest:
    """A domain whose guest hears the press of number `hears`, and is down `takes` seconds later."""

    def __init__(self, clock: Clock, *, hears: int = 1, takes: float = 3.0) -> None:
        self.began = clock.now
        self.state_is = libvirt.VIR_DOMAIN_RUNNING
        self.pressed: list[float] = []
        self.metadata_is = OURS
        self._clock = clock
        self._hears = hears
        self._takes = takes

    # What the lane is asked for:
    call_timeout = 1.0

    async def effect(
        self, _vm: str, _within: float, work: Callable[..., bool], *args: Any, **more: Any
    ) -> bool:
        return work(self, *args, **more)

    # What the session is asked for:
    host = "h1"

    def check(self) -> None:
        pass

    @property
    def connection(self) -> Guest:
        return self

    # What the connection and the domain are asked for:
    def lookupByUUIDString(self, _vm: str) -> Guest:  # noqa: N802 - libvirt's name
        return self

    def name(self) -> str:
        return "ccf-a"

    def metadata(self, _kind: int, _uri: str) -> str:
        if not self.metadata_is:
            raise error(libvirt.VIR_ERR_NO_DOMAIN_METADATA)
        return self.metadata_is

    def state(self) -> list[int]:
        heard = len(self.pressed) >= self._hears
        if heard and self._clock.now >= self.pressed[self._hears - 1] + self._takes:
            self.state_is = libvirt.VIR_DOMAIN_SHUTOFF
        return [self.state_is, 0]

    def shutdownFlags(self, flags: int) -> None:  # noqa: N802 - libvirt's name
        assert flags == api.SHUTDOWN_ACPI
        self.pressed.append(self._clock.now)


def waited(clock: Clock, guest: Guest) -> float:
    """Wait for *guest*, the clock going on whenever there is nothing to do; return the seconds."""
    loop = Loop(clock)
    task = loop.create_task(shutdown.by_guest(cast("Lane", guest), "a", GRACE))
    try:
        while True:
            loop.turn()
            if task.done():
                task.result()
                return clock.now - guest.began
            assert loop.wakes_at is not None
            clock.now = loop.wakes_at
    finally:
        loop.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_guest_that_hears_is_asked_once_and_left_as_soon_as_it_is_down(clock: Clock) -> None:
    guest = Guest(clock)
    assert 3.0 <= waited(clock, guest) <= 3.0 + shutdown.LONGEST_PAUSE
    assert len(guest.pressed) == 1


def test_a_guest_that_was_only_starting_is_asked_again(clock: Clock) -> None:
    guest = Guest(clock, hears=2)
    waited(clock, guest)
    first, second = guest.pressed
    assert shutdown.AGAIN <= second - first <= shutdown.AGAIN + shutdown.LONGEST_PAUSE


def test_one_that_never_hears_has_its_grace_and_no_more(clock: Clock) -> None:
    guest = Guest(clock, hears=99)
    assert waited(clock, guest) == pytest.approx(GRACE)
    assert len(guest.pressed) == 3


@pytest.mark.parametrize(
    "state",
    [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED],
)
def test_one_that_cannot_hear_is_not_waited_for(clock: Clock, state: int) -> None:
    guest = Guest(clock)
    guest.state_is = state
    assert waited(clock, guest) == 0
    assert guest.pressed == []


def test_a_strangers_domain_is_not_asked(clock: Clock) -> None:
    guest = Guest(clock)
    guest.metadata_is = ""
    with pytest.raises(Refused, match="left alone"):
        waited(clock, guest)
    assert guest.pressed == []
