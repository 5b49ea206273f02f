"""Bridges and their ports on a real Open vSwitch."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import Bridge, Control, Ports
from ccfd.network import Fabric
from ccfd.settings import Settings
from tests.host.switch import (
    AMPLE,
    VNI,
    Guest,
    Switch,
    bridge,
    link,
    ports,
    sh,
    tap,
    tunnel,
    vm,
    wait_until,
    watched,
)
from tests.lab.pki import Authority


async def test_making_a_bridge_twice_gives_one_bridge_with_the_owners_tags(
    fabric: Fabric, switch: Switch
) -> None:
    wanted = bridge(tunnel("172.20.0.2"), tunnel("172.20.0.3"), link(10))
    for _ in range(2):
        await fabric.make(wanted)
        assert switch.ports() == {port.name for port in wanted.ports}
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.make(wanted)
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before
    assert "demo" in switch.vsctl("br-get-external-id", "ccf-1001", "ccf-slice")
    assert switch.interface(tap(10), "external_ids:ccf-vm") == vm(10)
    assert switch.interface(names.tunnel(VNI, "172.20.0.2"), "options:key") == "1001"


async def test_making_corrects_what_differs_and_removes_what_is_too_much(
    fabric: Fabric, switch: Switch
) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), tunnel("172.20.0.3")))
    switch.vsctl("set", "bridge", "ccf-1001", "fail_mode=secure")
    switch.vsctl("set", "interface", names.tunnel(VNI, "172.20.0.2"), "options:key=7")
    await fabric.make(bridge(tunnel("172.20.0.2"), tunnel("172.20.0.4")))
    assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), names.tunnel(VNI, "172.20.0.4")}
    assert switch.vsctl("get", "bridge", "ccf-1001", "fail_mode") == "standalone"
    assert switch.interface(names.tunnel(VNI, "172.20.0.2"), "options:key") == "1001"


def control(number: int, *uses: str) -> Control:
    return Control(
        host=names.NODE,
        slice=f"s{number}",
        vni=number,
        address="172.16.255.254/16",
        mtu=1450,
        uses=("", f"172.20.0.{number}", *uses),
    )


def shared(switch: Switch) -> set[str]:
    return set(switch.vsctl("list-ports", "ccf-0").split())


async def test_slices_come_to_the_control_network_and_go_side_by_side(
    fabric: Fabric, switch: Switch
) -> None:
    first, *others = [control(number) for number in range(2, 14)]
    await asyncio.gather(*map(fabric.join, (first, *others)))
    assert shared(switch) == {names.tunnel(0, f"172.20.0.{number}") for number in range(2, 14)}
    assert " 172.16.255.254/16 " in sh("ip", "-4", "-o", "address", "show", "ccf-0")
    assert " mtu 1450 " in sh("ip", "link", "show", "ccf-0")
    before = switch.vsctl("get", "open_vswitch", ".", "next_cfg")
    await fabric.join(first)
    assert switch.vsctl("get", "open_vswitch", ".", "next_cfg") == before

    late = [control(number, "172.20.0.2") for number in range(20, 26)]
    await asyncio.gather(*map(fabric.leave, (first, *others)), *map(fabric.join, late))
    wanted = {2, *range(20, 26)}
    assert shared(switch) == {names.tunnel(0, f"172.20.0.{number}") for number in wanted}
    (seen,) = [(await fabric.inventory(names.NODE)).control]
    assert seen is not None
    assert {name for _, name in seen.uses} == {one.slice for one in late}
    assert seen.address == "172.16.255.254/16"

    switch.kill()
    switch.start()
    await fabric.probe(names.NODE)
    assert " 172.16.255.254/16 " in sh("ip", "-4", "-o", "address", "show", "ccf-0")
    await asyncio.gather(*(fabric.leave(replace(one, uses=None)) for one in late))
    await fabric.leave(first)
    assert switch.vsctl("list-br") == ""
    assert "ccf-0" not in sh("ip", "link")


async def test_a_slow_switch_keeps_nothing_of_a_slice_that_leaves(
    fabric: Fabric, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = replace(control(2), uses=("172.20.0.2",))
    await fabric.join(part)
    # Every switch is slow then.
    monkeypatch.setattr("ccfd.network.fabric.RESTART", 0.001)
    await fabric.leave(part)
    assert switch.vsctl("list-br") == ""


async def test_a_controllers_tap_is_plugged_into_the_control_network(
    fabric: Fabric, switch: Switch, guests: tuple[Guest, Guest]
) -> None:
    tap_link = replace(link(10), ip="172.16.0.101")
    tap_port = Ports(host=names.NODE, slice="s2", vni=names.CONTROL_VNI, ports=(tap_link,))
    with pytest.raises(Refused, match="make it first"):
        await fabric.plug(tap_port)
    await fabric.join(control(2))
    await fabric.join(control(3))
    await fabric.plug(tap_port)
    guests[0].start(address=False)
    mine = ("address", "add", "172.16.0.101/16", "dev", "eth0")
    sh("ip", "-n", guests[0].space, *mine)
    assert guests[0].reaches("172.16.255.254")
    await fabric.leave(replace(control(2), uses=None))
    assert shared(switch) == {names.tunnel(0, "172.20.0.3")}
    await fabric.leave(control(3))


async def test_plugging_and_unplugging_may_be_repeated(fabric: Fabric, switch: Switch) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2")))
    for _ in range(2):
        await fabric.plug(ports(link(10), link(11)))
        assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), tap(10), tap(11)}
    for _ in range(2):
        await fabric.unplug(ports(link(10)))
        assert switch.ports() == {names.tunnel(VNI, "172.20.0.2"), tap(11)}


async def test_removing_a_bridge_twice_leaves_nothing(fabric: Fabric, switch: Switch) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), link(10)))
    for _ in range(2):
        await fabric.remove(bridge())
        assert switch.vsctl("list-br") == ""
        assert switch.vsctl("--bare", "--columns=name", "list", "interface") == ""
    await fabric.unplug(ports(link(10)))


async def test_another_slices_bridge_is_refused_and_never_touched(
    fabric: Fabric, switch: Switch
) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), slice_name="theirs"))
    with pytest.raises(Refused, match="of slice theirs"):
        await fabric.make(bridge())
    with pytest.raises(Refused, match="of slice theirs"):
        await fabric.plug(ports(link(10)))
    await fabric.unplug(ports(tunnel("172.20.0.2")))
    await fabric.remove(bridge())
    assert switch.ports() == {names.tunnel(VNI, "172.20.0.2")}


async def test_a_tunnel_that_the_switch_cannot_make_is_refused_with_its_words(
    fabric: Fabric, switch: Switch
) -> None:
    switch.vsctl("add-br", "other", "--", "set", "bridge", "other", "datapath_type=netdev")
    switch.vsctl(
        *("add-port", "other", "mine", "--", "set", "interface", "mine", "type=vxlan"),
        *("options:remote_ip=172.20.0.2", "options:local_ip=172.20.0.1", "options:key=1001"),
    )
    with pytest.raises(Refused, match="cannot make"):
        await fabric.make(bridge(tunnel("172.20.0.2")))


async def test_forty_bridges_at_once_all_stand(fabric: Fabric, switch: Switch) -> None:
    wanted = [
        Bridge(host=names.NODE, slice=f"s{vni}", vni=vni, ports=()) for vni in range(2000, 2040)
    ]
    async with asyncio.TaskGroup() as group:
        for one in wanted:
            group.create_task(fabric.make(one))
    assert len(switch.vsctl("list-br").split()) == len(wanted)
    inventory = await fabric.inventory(names.NODE)
    assert {found.slice for found in inventory.bridges} == {one.slice for one in wanted}


async def test_the_inventory_names_owners_of_bridges_and_ports(fabric: Fabric) -> None:
    await fabric.make(bridge(tunnel("172.20.0.2"), link(10)))
    inventory = await fabric.inventory(names.NODE)
    assert [(found.name, found.slice, found.vni) for found in inventory.bridges] == [
        ("ccf-1001", "demo", VNI)
    ]
    assert {(port.name, port.vm, port.bridge) for port in inventory.ports} == {
        (tap(10), vm(10), names.GUARD),
        (names.guard_patch(vm(10)), None, names.GUARD),
        (names.patch(vm(10)), None, "ccf-1001"),
        (names.tunnel(VNI, "172.20.0.2"), None, "ccf-1001"),
    }


async def test_a_frozen_switch_daemon_is_a_passing_error_and_the_repeat_succeeds(
    switch: Switch, settings: Settings, fabric: Fabric
) -> None:
    hasty = Fabric(settings, timeout=1)
    switch.freeze(signal.SIGSTOP)
    try:
        # On a machine that stands still its database may be late, too.
        with pytest.raises(Transient, match=r"ovs-vswitchd has not applied|no answer"):
            await hasty.make(bridge(link(10)))
        with pytest.raises(Transient):
            await hasty.make(bridge(link(10)))
    finally:
        switch.freeze(signal.SIGCONT)
        await hasty.close()
    await fabric.make(bridge(link(10)))
    await fabric.probe(names.NODE)


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:6640", "ssl:127.0.0.1:6641"])
async def test_the_database_is_reached_over_the_network(
    address: str, settings: Settings, switch: Switch
) -> None:
    remote = settings.model_copy(
        update={
            "network_node": settings.network_node.model_copy(update={"ovsdb": address}),
            "tls": settings.tls.model_copy(
                update={
                    "ca": str(switch.folder / "ca.pem"),
                    "cert": str(switch.folder / "client.pem"),
                    "key": str(switch.folder / "client-key.pem"),
                }
            ),
        }
    )
    fabric = Fabric(remote, timeout=AMPLE)
    await fabric.make(bridge(link(10)))
    assert f"dl_src={link(10).mac}" in switch.ofctl("dump-flows")
    async with watched(fabric, remote):
        switch.ofctl("del-flows")
        await wait_until(lambda: f"dl_src={link(10).mac}" in switch.ofctl("dump-flows"))
    await fabric.remove(bridge())
    assert switch.vsctl("list-br") == ""
    await fabric.close()


async def test_a_server_that_our_authority_did_not_sign_is_not_trusted(
    settings: Settings, switch: Switch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority().cert)
    tls = {
        "ca": str(tmp_path / "ca.pem"),
        "cert": str(switch.folder / "client.pem"),
        "key": str(switch.folder / "client-key.pem"),
    }
    node = settings.network_node.model_copy(update={"ovsdb": "ssl:127.0.0.1:6641"})
    fabric = Fabric(
        settings.model_copy(
            update={"network_node": node, "tls": settings.tls.model_copy(update=tls)}
        )
    )
    with pytest.raises(Transient, match="certificate verify failed"):
        await fabric.probe(names.NODE)


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_bridge_removed_while_its_switch_daemon_is_dead_leaves_no_link(
    moment: str, fabric: Fabric, switch: Switch
) -> None:
    link_of_bridge = Path(f"/sys/class/net/{names.bridge(VNI)}")
    await fabric.make(bridge())
    assert link_of_bridge.exists()
    switch.kill()
    if moment == "before":  # an earlier attempt, of a ccfd that was killed
        switch.vsctl("--no-wait", "del-br", names.bridge(VNI))
        switch.start()
    async with asyncio.TaskGroup() as group:
        removal = group.create_task(fabric.remove(bridge()))
        await asyncio.sleep(0.3)
        if moment == "during":
            assert not removal.done()
            switch.start()
    assert switch.vsctl("list-br") == ""
    assert not link_of_bridge.exists()
