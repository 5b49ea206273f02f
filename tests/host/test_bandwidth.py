"""What limits a VM's bandwidth on a real Open vSwitch, measured."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ccfd.model import names
from ccfd.network import Fabric
from ccfd.settings import Settings
from tests.host import steady_udp
from tests.host.switch import (
    VNI,
    Guest,
    Switch,
    bridge,
    link,
    ports,
    sh,
    watched,
)

BANDWIDTH = 10
"""Mbit/s."""
AS_MUCH = pytest.approx(BANDWIDTH, rel=0.15)


async def speed(sender: Guest, receiver: Guest, mbits: int) -> float:
    """Return the Mbit/s that arrive of *mbits*, counted in Ethernet frames."""

    def program(guest: Guest, *words: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", guest.space, "python3", "-c", *words)

    got, _ = await asyncio.gather(
        asyncio.to_thread(sh, *program(receiver, steady_udp.RECEIVER, receiver.address)),
        asyncio.to_thread(
            sh, *program(sender, steady_udp.SENDER, receiver.address, str(mbits), "1.5")
        ),
    )
    return float(got)


async def is_limited(sender: Guest, receiver: Guest) -> None:
    """See that of twice the limit as much arrives as the limit says."""
    found = await steady_udp.measured(
        lambda: speed(sender, receiver, 2 * BANDWIDTH), lambda mbits: mbits == AS_MUCH
    )
    assert found[-1] == AS_MUCH, found


async def is_not_limited(sender: Guest, receiver: Guest) -> None:
    found = await steady_udp.measured(
        lambda: speed(sender, receiver, 2 * BANDWIDTH), lambda mbits: mbits > 1.5 * BANDWIDTH
    )
    assert found[-1] > 1.5 * BANDWIDTH, found


async def test_a_vm_sends_and_gets_no_more_than_its_bandwidth(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    limited = replace(link(10), bandwidth=BANDWIDTH)
    await fabric.make(bridge(limited, link(11)))
    assert one.reaches(two.address)
    for sender, receiver in ((one, two), (two, one)):
        await is_limited(sender, receiver)
    # libvirt does this to a tap that it makes, at any moment until the VM runs.
    sh("tc", "qdisc", "replace", "dev", limited.name, "root", "noqueue")
    await is_not_limited(two, one)
    await fabric.shape(ports(limited))
    await is_limited(two, one)
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.make(bridge(limited, link(11)))
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before

    async with watched(fabric, settings):
        switch.kill()
        switch.start()
        assert await asyncio.to_thread(one.reaches, two.address)
        assert "rate=10000 " in switch.ofctl("dump-meters")
    await fabric.plug(ports(replace(limited, bandwidth=2)))
    assert limits(switch) == {"2000000"}
    assert "rate=2000 " in switch.ofctl("dump-meters")
    await fabric.plug(ports(link(10)))
    assert limits(switch) == set()
    await is_not_limited(one, two)


def limits(switch: Switch) -> set[str]:
    shown = switch.vsctl("--bare", "--columns=other_config", "list", "qos").split()
    return {one.removeprefix("max-rate=") for one in shown}


async def test_no_limit_outlives_its_port(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    limited = replace(link(10), bandwidth=BANDWIDTH)
    plain = bridge(limited, link(11))
    await fabric.make(plain)
    await fabric.unplug(ports(limited))
    assert limits(switch) == set()
    assert "meter=" not in switch.ofctl("dump-meters")
    await fabric.make(plain)
    await fabric.make(bridge(link(11)))
    assert limits(switch) == set()
    await fabric.make(plain)
    await fabric.remove(bridge())
    assert limits(switch) == set()

    # What somebody else took away leaves its limit, which is seen, and used again.
    await fabric.make(plain)
    switch.vsctl("del-br", names.GUARD)
    (stray,) = (await fabric.inventory(names.NODE)).strays
    assert (stray.port, stray.slice, stray.vni) == (limited.name, "demo", VNI)
    await fabric.make(plain)
    inventory = await fabric.inventory(names.NODE)
    assert inventory.strays == ()
    assert {p.bandwidth for p in inventory.ports if p.name == limited.name} == {BANDWIDTH}
    for name in (names.GUARD, names.bridge(VNI)):
        switch.vsctl("del-br", name)
    await fabric.remove(bridge())
    assert limits(switch) == set()
