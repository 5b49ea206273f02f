"""What a DHCP server is told."""

from dataclasses import replace
from pathlib import Path

from ccfd.model.network import Dhcp, Lease
from ccfd.network.dhcp_files import render, to_check

PLACE = Path("/var/lib/ccfd/network/1001")
DHCP = Dhcp(
    slice="demo",
    vni=1001,
    address="10.0.0.65/26",
    mtu=1450,
    leases=(
        Lease(mac="02:e9:0a:00:00:4b", ip="10.0.0.75", name="b"),
        Lease(mac="02:e9:0a:00:00:4a", ip="10.0.0.74", name="a"),
    ),
)


def test_the_configuration_is_this() -> None:
    assert render(DHCP, PLACE, user="nobody").config.splitlines()[1:] == [
        "port=0",
        "no-hosts",
        "no-ping",
        "interface=inside",
        "except-interface=lo",
        "dhcp-range=10.0.0.64,static,255.255.255.192,3600",
        "dhcp-ignore=tag:!known",
        "dhcp-authoritative",
        "dhcp-no-override",
        "dhcp-lease-max=64",
        "dhcp-option=3",
        "dhcp-option=6",
        "dhcp-option=26,1450",
        "dhcp-hostsfile=/var/lib/ccfd/network/1001/hosts",
        "dhcp-leasefile=/var/lib/ccfd/network/1001/leases",
        "pid-file=/var/lib/ccfd/network/1001/pid",
        "user=nobody",
        "quiet-dhcp",
    ]


def test_router_name_and_time_servers_are_told_when_given() -> None:
    dhcp = replace(DHCP, router="10.0.0.65", dns=("192.0.2.53", "192.0.2.54"), ntp=("192.0.2.123",))
    config = render(dhcp, PLACE, user="nobody").config
    assert "dhcp-option=3,10.0.0.65\n" in config
    assert "dhcp-option=6,192.0.2.53,192.0.2.54\n" in config
    assert "dhcp-option=42,192.0.2.123\n" in config


def test_leases_stand_in_the_order_of_their_addresses() -> None:
    files = render(DHCP, PLACE, user="nobody")
    assert files.hosts == "02:e9:0a:00:00:4a,10.0.0.74,a\n02:e9:0a:00:00:4b,10.0.0.75,b\n"
    assert to_check(files).endswith(
        "dhcp-host=02:e9:0a:00:00:4a,10.0.0.74,a\ndhcp-host=02:e9:0a:00:00:4b,10.0.0.75,b\n"
    )


def test_a_change_of_leases_changes_the_hosts_only() -> None:
    fewer = render(replace(DHCP, leases=()), PLACE, user="nobody")
    assert fewer.hosts == ""
    assert fewer.config == render(DHCP, PLACE, user="nobody").config
