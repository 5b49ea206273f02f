"""Ports whose links come and go, as VMs do, on a real Open vSwitch."""

from __future__ import annotations

import asyncio

import pytest

from ccfd.network import Fabric
from ccfd.settings import Settings
from tests.host.switch import (
    AMPLE,
    Guest,
    Switch,
    bridge,
    link,
    ports,
    sh,
    wait_for,
    watched,
)


async def test_a_link_that_appears_after_its_row_carries_traffic(
    fabric: Fabric, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    await fabric.make(bridge(link(10), link(11)))
    one.start()
    two.start()
    assert one.reaches(two.address)


async def test_a_vm_that_is_started_again_after_plug_carries_traffic_on_its_old_number(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    number = switch.interface(one.name, "ofport")

    one.stop()
    await fabric.plug(ports(link(10)))  # before its start: the link is gone
    one.start()
    assert one.reaches(two.address)

    one.stop()
    one.start()
    # Open vSwitch 3.1 listens to the dead link until something has it look again.
    await fabric.plug(ports(link(10)))  # after its start
    assert one.reaches(two.address)
    assert switch.interface(one.name, "ofport") == number

    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.plug(ports(link(10)))
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before


async def test_a_link_that_is_down_after_its_start_is_told(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    with monkeypatch.context() as patient:
        patient.setattr("ccfd.network.fabric.CARRIES_WITHIN", AMPLE)
        assert await fabric.carries(ports(link(10), link(11)))
    sh("ip", "link", "set", one.name, "down")
    # The switch tells it in its own time; one that is slow has not taken the link up before.
    wait_for(lambda: switch.interface(one.name, "link_state") == "down")
    assert not await fabric.carries(ports(link(10), link(11)))


async def test_ports_and_flows_come_back_when_the_switch_daemon_restarts(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    await fabric.make(bridge(link(10), link(11)))
    one.start()
    two.start()
    assert one.reaches(two.address)
    async with watched(fabric, settings):
        switch.kill()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)
        switch.kill()
        one.stop()
        one.start()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)
