"""What a VM may send, on a real Open vSwitch, whatever its tenant does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ccfd.model import names
from ccfd.model.network import Bridge, Controller
from ccfd.network import Fabric, guard_flows
from ccfd.network import fabric as fabric_module
from ccfd.settings import Settings
from tests.host.packets import arrive, frames
from tests.host.switch import (
    Guest,
    Switch,
    bridge,
    link,
    ports,
    sh,
    vm,
    watched,
)


async def test_a_vm_sends_by_its_own_addresses_only_whatever_its_tenant_does(
    fabric: Fabric, settings: Settings, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    wanted = set(frames(one, two)[0])
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    assert arrive(one, two) == wanted

    # A tenant's controller has every table of the slice's bridge.
    nobody = Controller(address="127.0.0.1", port=1)
    await fabric.make(replace(bridge(link(10), link(11)), controller=nobody))
    assert one.loses(two.address)
    flood = ("add-flow", "priority=65535,actions=flood")
    switch.ofctl(*flood, bridge="ccf-1001")
    assert one.reaches(two.address)
    assert arrive(one, two) == wanted

    async with watched(fabric, settings) as put_right:
        switch.kill()
        switch.start()
        await fabric.probe(names.NODE)
        switch.ofctl(*flood, bridge="ccf-1001")
        assert await asyncio.to_thread(one.reaches, two.address)
        assert await asyncio.to_thread(arrive, one, two) == wanted
        assert put_right == ["flows", "flows"]


async def test_nothing_of_a_vm_passes_before_its_flows_and_none_are_left_behind_it(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    one, two = guests
    one.start()
    two.start()
    await fabric.make(bridge(link(10), link(11)))
    assert one.reaches(two.address)
    switch.ofctl("del-flows", f"cookie={guard_flows.cookie(vm(10))}/-1")
    assert one.loses(two.address)
    await fabric.plug(ports(link(10)))  # as every start does
    assert one.reaches(two.address)

    await fabric.unplug(ports(link(10)))
    left = guard_flows.read(switch.ofctl("dump-flows"))
    assert left.keys() == {guard_flows.cookie(vm(11))}
    for _ in range(2):
        await fabric.unplug(ports(link(11)))
        assert switch.vsctl("list-br") == "ccf-1001"


async def test_slices_come_to_the_guard_and_go_side_by_side(fabric: Fabric, switch: Switch) -> None:
    def of(number: int) -> Bridge:
        own = (link(number), link(number + 100))
        return Bridge(host=names.NODE, slice=f"s{number}", vni=number, ports=own)

    first, late = ([of(number) for number in numbers] for numbers in (range(2, 8), range(8, 14)))
    await asyncio.gather(*map(fabric.make, first))
    await asyncio.gather(*map(fabric.remove, first), *map(fabric.make, late))
    taps = {port.name for one in late for port in one.ports}
    assert switch.taps() == taps
    vms = {guard_flows.cookie(port.vm or "") for one in late for port in one.ports}
    assert guard_flows.read(switch.ofctl("dump-flows")).keys() == vms
    await asyncio.gather(*map(fabric.remove, late))
    assert switch.vsctl("list-br") == ""
    assert names.GUARD not in sh("ip", "link")


async def test_the_last_of_those_who_leave_at_one_moment_takes_the_guard_away(
    fabric: Fabric, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [
        Bridge(host=names.NODE, slice=f"s{number}", vni=number, ports=(link(number),))
        for number in (2, 3)
    ]
    await asyncio.gather(*map(fabric.make, both))
    together, looked, look = asyncio.Barrier(2), set(), fabric_module._look_at_all

    async def look_together(place: Any, target: Any, *, others: bool = False) -> Any:
        seen = await look(place, target, others=others)
        if target.slice not in looked:
            looked.add(target.slice)
            await together.wait()
        return seen

    monkeypatch.setattr(fabric_module, "_look_at_all", look_together)
    # Else who was slow looks once more for another reason, and hides what is tested.
    monkeypatch.setattr(fabric_module, "RESTART", 3.0)
    await asyncio.gather(*map(fabric.remove, both))
    assert switch.vsctl("list-br") == ""
