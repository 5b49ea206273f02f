"""What effects that join several drivers do when one of them fails."""

from typing import Any

import pytest

from ccfd.errors import Transient
from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.model.vm import Machine, Start
from tests.twins import World, no_trap

VM = "00000000-0000-4000-8000-000000000001"
MACHINE = Machine(
    host="h1",
    vm=VM,
    name="a",
    slice="demo",
    kind="slice",
    cpu=1,
    ram=128,
    mac="02:00:0a:00:00:02",
    tap=names.tap(VM),
    mtu=1450,
)
TAP = Port(name=names.tap(VM), kind="system", vm=VM)
START = Start(machine=MACHINE, port=Ports(host="h1", slice="demo", vni=1001, ports=(TAP,)))


async def test_a_vm_whose_new_link_was_taken_down_is_started_again() -> None:
    world = World()
    world.disks["h1", VM] = "5" * 64
    world.seeds["h1", VM] = "a"
    act = world.effects()
    await act["make-bridge"].do(Bridge(host="h1", slice="demo", vni=1001, ports=(TAP,)))

    async def take_down_once(call: str, args: Any) -> None:
        await no_trap(call, args)
        if call == "domains.boot:after" and len(world.boots) == 1:
            world.taken_down.add(TAP.name)

    world.trap = take_down_once
    with pytest.raises(Transient, match="started again"):
        await act["boot"].do(START)
    assert world.definitions, "it stays defined: its snapshots are its own"
    assert not world.domains
    await act["boot"].do(START)
    assert world.boots == [VM, VM]
    assert world.domains
