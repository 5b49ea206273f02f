"""A slice's namespace and its DHCP server: a real dnsmasq on a real Open vSwitch."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Dhcp, DhcpChange, Lease, Namespace, Port
from ccfd.network import DhcpServers, Fabric, Namespaces
from ccfd.network.dhcp_files import mark
from ccfd.settings import Settings
from tests.host.switch import (
    AMPLE,
    VNI,
    Guest,
    Switch,
    begin,
    bridge,
    link,
    ports,
    sh,
    user_of,
    wait_for,
)


def namespace(slice_name: str = "demo", address: str = "10.0.0.1/24") -> Namespace:
    return Namespace(
        slice=slice_name, vni=VNI, address=address, mac=names.mac("10.0.0.1", VNI), mtu=1450
    )


@pytest.fixture
async def namespaces(settings: Settings, switch: Switch) -> AsyncIterator[Namespaces]:
    namespaces = Namespaces(settings)
    yield namespaces
    await namespaces.close(namespace())


async def test_opening_a_namespace_twice_gives_one_leg_with_address_mac_and_mtu(
    namespaces: Namespaces, fabric: Fabric, guests: tuple[Guest, Guest]
) -> None:
    inside = ("ip", "-n", "ccf-1001", "-oneline")
    await namespaces.open(namespace())
    first = sh(*inside, "link", "show", "inside").split(":")[0]
    await namespaces.open(namespace())
    assert sh(*inside, "link", "show", "inside").split(":")[0] == first
    assert "mtu 1450" in sh(*inside, "link", "show", "inside")
    assert names.mac("10.0.0.1", VNI) in sh(*inside, "link", "show", "inside")
    assert "tx-checksumming: off" in sh(
        "ip", "netns", "exec", "ccf-1001", "ethtool", "-k", "inside"
    )
    port = Port(name=names.inside_port(VNI), kind="system")
    await fabric.make(bridge(port, link(10)))
    guests[0].start()
    assert guests[0].reaches("10.0.0.1")


@pytest.mark.parametrize(
    "damage",
    [
        "ip -n ccf-1001 address flush dev inside",
        "ip -n ccf-1001 address add 10.7.7.7/24 dev inside",
        "ip -n ccf-1001 link set inside down mtu 1300",
        "ip link set ccf-i-1001 down",
        "ip link delete ccf-i-1001",
        "ip -n ccf-1001 link set inside name lost",
        "ip netns delete ccf-1001",
        "umount /run/netns/ccf-1001",
    ],
)
async def test_opening_completes_or_replaces_what_is_half_made(
    damage: str, namespaces: Namespaces
) -> None:
    await namespaces.open(namespace())
    sh(*damage.split())
    await namespaces.open(namespace())
    shown = sh("ip", "-n", "ccf-1001", "-oneline", "-4", "address", "show", "dev", "inside")
    assert "10.0.0.1/24" in shown
    assert "10.7.7.7" not in shown
    assert "mtu 1450" in sh("ip", "-n", "ccf-1001", "link", "show", "inside")
    assert ",UP" in sh("ip", "link", "show", "ccf-i-1001")


async def test_closing_twice_leaves_nothing_though_a_stranger_sits_in_the_namespace(
    namespaces: Namespaces, settings: Settings
) -> None:
    await namespaces.open(namespace())
    stranger = begin("ip", "netns", "exec", "ccf-1001", "sleep", "600")
    try:
        there = os.stat("/run/netns/ccf-1001")
        wait_for(lambda: os.path.samestat(os.stat(f"/proc/{stranger.pid}/ns/net"), there))
        for _ in range(2):
            await namespaces.close(namespace())
            assert "ccf-1001" not in sh("ip", "netns", "list")
            assert "ccf-i-1001" not in sh("ip", "link", "show")
        assert stranger.poll() is None
        assert not (Path(settings.network_node.state) / str(VNI)).exists()
    finally:
        stranger.kill()
        stranger.wait()


async def test_another_slices_namespace_is_refused_and_never_closed(
    namespaces: Namespaces,
) -> None:
    await namespaces.open(namespace())
    with pytest.raises(Refused, match="belongs to slice demo"):
        await namespaces.open(namespace("other"))
    await namespaces.close(namespace("other"))
    assert "ccf-1001" in sh("ip", "netns", "list")


def dhcp(
    *octets: int, router: str | None = None, mtu: int = 1450, servers: tuple[str, ...] = ()
) -> Dhcp:
    return Dhcp(
        slice="demo",
        vni=VNI,
        address="10.0.0.1/24",
        mtu=mtu,
        router=router,
        dns=servers,
        ntp=servers,
        leases=tuple(
            Lease(mac=Guest(octet).mac, ip=f"10.0.0.{octet}", name=f"vm-{octet}")
            for octet in octets
        ),
    )


@pytest.fixture
async def served(
    settings: Settings, namespaces: Namespaces, fabric: Fabric
) -> AsyncIterator[DhcpServers]:
    await namespaces.open(namespace())
    port = Port(name=names.inside_port(VNI), kind="system")
    await fabric.make(bridge(port, link(10), link(11)))
    servers = DhcpServers(settings)
    yield servers
    await servers.stop(dhcp())


def ask(guest: Guest, folder: Path, *, seconds: int = 60) -> dict[str, str] | None:
    """Ask for a lease as busybox does, once a second; None when nobody answers."""
    script = folder / "lease"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && env > "$OUT"\nexit 0\n')
    script.chmod(0o755)
    answer = folder / "answer"
    answer.unlink(missing_ok=True)
    subprocess.run(
        [
            *("ip", "netns", "exec", guest.space, "busybox", "udhcpc", "-i", "eth0", "-n", "-q"),
            *(
                "-f",
                "-t",
                str(seconds),
                "-T",
                "1",
                "-O",
                "mtu",
                "-O",
                "hostname",
                "-O",
                "ntpsrv",
                "-s",
                str(script),
            ),
        ],
        capture_output=True,
        check=False,
        timeout=2 * AMPLE,
        env={**os.environ, "OUT": str(answer)},
    )
    if not answer.exists():
        return None
    return dict(line.split("=", 1) for line in answer.read_text().splitlines() if "=" in line)


async def test_a_vm_gets_its_address_name_and_mtu_but_no_router_of_ours(
    served: DhcpServers, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    await served.serve(dhcp(10))
    guests[0].start(address=False)
    lease = ask(guests[0], tmp_path)
    assert lease is not None
    assert (lease["ip"], lease["hostname"], lease["mtu"]) == ("10.0.0.10", "vm-10", "1450")
    assert "router" not in lease
    assert "dns" not in lease
    assert "ntpsrv" not in lease
    assert [given.ip for given in served.given(VNI)] == ["10.0.0.10"]


async def test_leases_change_without_a_restart_and_back(
    served: DhcpServers, settings: Settings, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    one, two = guests
    one.start(address=False)
    two.start(address=False)
    await served.serve(dhcp(10))
    pid = (Path(settings.network_node.state) / "1001" / "pid").read_text()
    change = DhcpChange(before=dhcp(10), after=dhcp(11))
    for _ in range(2):
        await served.change(change)
    assert (ask(two, tmp_path) or {})["ip"] == "10.0.0.11"
    assert ask(one, tmp_path, seconds=4) is None
    for _ in range(2):
        await served.change_back(change)
    assert (ask(one, tmp_path) or {})["ip"] == "10.0.0.10"
    assert (Path(settings.network_node.state) / "1001" / "pid").read_text() == pid


async def test_other_options_restart_the_server_and_a_new_leg_is_served(
    served: DhcpServers,
    namespaces: Namespaces,
    fabric: Fabric,
    guests: tuple[Guest, Guest],
    tmp_path: Path,
) -> None:
    guests[0].start(address=False)
    await served.serve(dhcp(10))
    other = dhcp(10, router="10.0.0.1", mtu=1400, servers=("192.0.2.53", "192.0.2.54"))
    assert served.mark(VNI) == mark(dhcp(10))
    await served.serve(other)
    assert served.mark(VNI) == mark(other)
    lease = ask(guests[0], tmp_path)
    assert lease is not None
    assert (lease["router"], lease["mtu"]) == ("10.0.0.1", "1400")
    assert lease["dns"] == lease["ntpsrv"] == "192.0.2.53 192.0.2.54"
    sh("ip", "link", "delete", names.inside_port(VNI))
    await namespaces.open(namespace())
    await fabric.plug(ports(Port(name=names.inside_port(VNI), kind="system")))
    assert ask(guests[0], tmp_path) is not None


async def test_a_restarted_ccfd_adopts_the_server_and_ends_it(
    served: DhcpServers, settings: Settings
) -> None:
    await served.serve(dhcp(10))
    place = Path(settings.network_node.state) / "1001"
    pid = int((place / "pid").read_text())
    assert os.getsid(pid) != os.getsid(0)
    # It writes its pid before it becomes who it shall be.
    wait_for(lambda: user_of(pid) == "nobody")
    again = DhcpServers(settings)
    await again.serve(dhcp(10))
    assert int((place / "pid").read_text()) == pid
    (place / "pid").unlink()  # found though its pid file was lost
    await again.serve(dhcp(10, 11))
    for _ in range(2):
        await again.stop(dhcp())
        assert list(place.iterdir()) == [place / "slice"]
        assert not any(
            "dnsmasq.conf" in line
            for line in sh("ps", "-e", "-o", "stat,args").splitlines()
            if str(place) in line and not line.startswith("Z")
        )


async def test_a_server_that_dies_is_told_of_at_once_and_one_that_was_ended_is_not(
    served: DhcpServers, settings: Settings
) -> None:
    place = Path(settings.network_node.state) / "1001"
    told: asyncio.Queue[int] = asyncio.Queue()
    await served.serve(dhcp(10))
    watching = DhcpServers(settings, told.put_nowait)
    assert watching.mark(VNI) == mark(dhcp(10))  # a sweep adopts what an earlier ccfd started
    for _ in range(2):
        os.kill(int((place / "pid").read_text()), signal.SIGKILL)
        async with asyncio.timeout(AMPLE):
            assert await told.get() == VNI
        assert watching.mark(VNI) is None
        await watching.serve(dhcp(10))
    await watching.serve(dhcp(10, mtu=1400))  # restarts it
    await watching.stop(dhcp())
    assert told.empty()
    watching.close()


async def test_a_recycled_pid_is_never_signalled(served: DhcpServers, settings: Settings) -> None:
    await served.serve(dhcp(10))
    place = Path(settings.network_node.state) / "1001"
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    stranger = begin("sleep", "600")
    try:
        (place / "pid").write_text(f"{stranger.pid}\n")
        await served.serve(dhcp(10))
        await served.stop(dhcp())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_dhcp_without_a_namespace_is_refused(settings: Settings, switch: Switch) -> None:
    with pytest.raises(Refused, match="open it first"):
        await DhcpServers(settings).serve(dhcp())
