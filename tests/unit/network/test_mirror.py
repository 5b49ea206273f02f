"""The copy of a switch's rows that its monitor keeps, and what is computed from its counters."""

from typing import Any

import pytest

from ccfd.network.mirror import Changed, Mirror, WatchedPort
from tests.unit.network import switch_rows as rows
from tests.unit.network.switch_rows import interface, new

VM = {"ccf-slice": "demo", "ccf-vm": "vm-1", "ccf-host": "h1"}


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror()
    mirror.apply(rows.demo(), None)
    return mirror


def port(mirror: Mirror, name: str = "ccf-tap", at: float = 100) -> WatchedPort:
    return next(one for one in mirror.ports(at) if one.name == name)


def counted(mirror: Mirror, received: int, sent: int, at: float) -> Changed:
    """Tell of a refresh of the tap's statistics, and of nothing else."""
    row = interface("ccf-tap", received=received, sent=sent, tags=VM)
    return mirror.apply({"Interface": {"tap": new(row, statistics=rows.texts({}))}}, at)


def changed(mirror: Mirror, table: str, uuid: str, row: Any, at: float = 1) -> Changed:
    return mirror.apply({table: {uuid: row}}, at)


def test_ports_and_bridges_of_ours_are_known_and_nothing_of_others(mirror: Mirror) -> None:
    found = mirror.bridge("ccf-1001")
    assert found is not None
    assert (found.slice, found.vni, found.fail_mode) == ("demo", 1001, "standalone")
    assert mirror.bridge("br-int") is None
    assert [one.name for one in mirror.ports(0)] == ["ccf-tap", "t0003e9ac140002"]
    tap, tunnel = port(mirror), port(mirror, "t0003e9ac140002")
    assert (tap.bridge, tap.vm, tap.host, tap.up) == ("ccf-1001", "vm-1", "h1", True)
    assert (tunnel.kind, tunnel.remote_ip, tunnel.carrier) == ("vxlan", "172.20.0.2", "up")


def test_what_a_vm_receives_is_what_its_switch_sends(mirror: Mirror) -> None:
    counters = port(mirror).counters
    assert counters is not None
    assert (counters.receive.bytes, counters.receive.packets, counters.receive.drops) == (
        1000,
        100,
        3,
    )
    assert (counters.transmit.bytes, counters.transmit.drops) == (500, 4)
    assert port(mirror, "t0003e9ac140002").counters is None


def test_rates_come_from_two_refreshes_and_their_times(mirror: Mirror) -> None:
    assert port(mirror).rates is None  # nobody knows how old the first counters are
    counted(mirror, 2000, 500, at=10)
    counted(mirror, 5000, 1000, at=14)
    rates = port(mirror, at=15).rates
    assert rates is not None
    assert (rates.receive.bytes, rates.receive.packets, rates.transmit.bytes) == (750, 75, 125)


def test_the_first_refresh_counts_for_one_period(mirror: Mirror) -> None:
    counted(mirror, 2000, 500, at=0.2)
    rates = port(mirror, at=1).rates
    assert rates is not None
    assert rates.receive.bytes == 200


def test_a_silent_port_has_no_speed_and_its_burst_counts_for_one_period(mirror: Mirror) -> None:
    counted(mirror, 2000, 500, at=10)
    rates = port(mirror, at=18).rates
    assert rates is not None
    assert (rates.receive.bytes, rates.transmit.packets) == (0, 0)
    counted(mirror, 3000, 500, at=60)
    rates = port(mirror, at=61).rates
    assert rates is not None
    assert rates.receive.bytes == 200


def test_refreshes_that_are_heard_at_once_give_no_absurd_rate(mirror: Mirror) -> None:
    counted(mirror, 2000, 500, at=10)
    counted(mirror, 3000, 500, at=10.001)
    rates = port(mirror, at=11).rates
    assert rates is not None
    assert rates.receive.bytes == 200


def test_counters_that_went_back_give_no_rate_until_the_next(mirror: Mirror) -> None:
    counted(mirror, 2000, 500, at=5)
    counted(mirror, 100, 0, at=10)
    assert port(mirror, at=11).rates is None
    counters = port(mirror).counters
    assert counters is not None
    assert counters.receive.bytes == 100
    counted(mirror, 600, 0, at=15)
    rates = port(mirror, at=16).rates
    assert rates is not None
    assert rates.receive.bytes == 100


def test_an_operator_may_have_statistics_refreshed_less_often(mirror: Mirror) -> None:
    row = {"other_config": rows.texts({"stats-update-interval": "20000"})}
    changed(mirror, "Open_vSwitch", "o", new(row))
    counted(mirror, 2000, 500, at=20)
    counted(mirror, 4000, 500, at=40)
    rates = port(mirror, at=65).rates
    assert rates is not None
    assert rates.receive.bytes == 100


def test_a_link_that_is_gone_has_no_counters_and_comes_back_without_a_rate(mirror: Mirror) -> None:
    counted(mirror, 2000, 500, at=5)
    gone = interface("ccf-tap", tags=VM, ofport=-1, error="could not open ccf-tap")
    assert changed(mirror, "Interface", "tap", new(gone, ofport=1, statistics=0)).bridges == {
        "ccf-1001"
    }
    assert (port(mirror).up, port(mirror).counters) == (False, None)
    counted(mirror, 7, 7, at=20)
    assert port(mirror, at=21).rates is None


def test_counters_and_the_age_of_a_connection_are_no_change(mirror: Mirror) -> None:
    assert counted(mirror, 2000, 500, at=5) == Changed()
    dialling = rows.bridge("ccf-1001", "p-tap", "p-tun", tags=rows.OURS, controllers=("c",))
    told = mirror.apply(
        {
            "Bridge": {"b": new(dialling, controller=rows.ids())},
            "Controller": {"c": new(rows.controller(connected=True))},
        },
        1,
    )
    assert told.bridges == {"ccf-1001"}
    later = new(rows.controller(connected=True, seconds=6), status=rows.texts({}))
    assert changed(mirror, "Controller", "c", later) == Changed()
    lost = new(rows.controller(connected=False), is_connected=True)
    assert changed(mirror, "Controller", "c", lost).bridges == {"ccf-1001"}
    found = mirror.bridge("ccf-1001")
    assert found is not None
    assert [(one.connected, one.state) for one in found.controllers] == [(False, "BACKOFF")]


def test_a_port_that_comes_or_goes_changes_its_bridge(mirror: Mirror) -> None:
    less = rows.bridge("ccf-1001", "p-tun", tags=rows.OURS)
    told = mirror.apply(
        {
            "Bridge": {"b": new(less, ports=rows.ids())},
            "Port": {"p-tap": {"old": rows.port("tap")}},
            "Interface": {"tap": {"old": interface("ccf-tap")}},
        },
        1,
    )
    assert told.bridges == {"ccf-1001"}
    assert [one.name for one in mirror.ports(0)] == ["t0003e9ac140002"]


def test_a_bridge_that_goes_is_told_of_by_its_name(mirror: Mirror) -> None:
    assert changed(mirror, "Bridge", "b", {"old": {}}).bridges == {"ccf-1001"}
    assert mirror.bridge("ccf-1001") is None
    assert port(mirror).bridge is None
    assert changed(mirror, "Bridge", "x", {"old": {}}) == Changed()


def test_a_tunnel_with_another_address_of_its_own_tells_that_the_switch_was_restarted(
    mirror: Mirror,
) -> None:
    def tunnel(mac: Any) -> dict[str, Any]:
        row = interface("t0003e9ac140002", "vxlan", mac_in_use=mac)
        return new(row, mac_in_use="before")

    assert changed(mirror, "Interface", "tun", tunnel("02:00:00:00:00:02")).restarted
    assert not changed(mirror, "Interface", "tun", tunnel(["set", []])).restarted
    assert not changed(mirror, "Interface", "tun", tunnel("02:00:00:00:00:03")).restarted
    tap = new(interface("ccf-tap", tags=VM, mac_in_use="fe:00:00:00:00:09"), mac_in_use="x")
    assert not changed(mirror, "Interface", "tap", tap).restarted


def test_a_tunnel_is_down_with_the_link_that_it_leaves_by(mirror: Mirror) -> None:
    row = interface(
        "t0003e9ac140002", "vxlan", status=rows.texts({"tunnel_egress_iface_carrier": "down"})
    )
    changed(mirror, "Interface", "tun", new(row, status=rows.texts({})))
    assert port(mirror, "t0003e9ac140002").up is False
