"""What a VM may send, line by line."""

from dataclasses import replace

import pytest

from ccfd.network import guard_flows
from ccfd.network.guard_flows import Guarded
from ccfd.network.rows import InterfaceRow

VM = Guarded(
    vm="01234567-89ab-4def-8123-456789abcdef", tap=40, mac="02:e9:0a:00:00:02", ip="10.0.0.2"
)
COOKIE = "0x123456789ab4def"


def matched(vm: Guarded, actions: str) -> set[str]:
    """List the matches of the flows that do *actions*."""
    told = [flow.partition(" actions=") for flow in guard_flows.flows(vm)]
    return {
        match.partition(",")[2]
        for line, _, done in told
        if done == actions
        for match in [line.partition("priority=")[2]]
    }


def test_a_vm_sends_by_its_own_addresses_and_asks_for_one() -> None:
    assert matched(VM, "output:41") == {
        "ip,in_port=40,dl_src=02:e9:0a:00:00:02,nw_src=10.0.0.2",
        "udp,in_port=40,dl_src=02:e9:0a:00:00:02,nw_src=0.0.0.0,nw_dst=255.255.255.255,"
        "tp_src=68,tp_dst=67",
        "arp,in_port=40,dl_src=02:e9:0a:00:00:02,arp_spa=10.0.0.2,arp_sha=02:e9:0a:00:00:02",
        "arp,in_port=40,dl_src=02:e9:0a:00:00:02,arp_spa=0.0.0.0,arp_sha=02:e9:0a:00:00:02",
        "in_port=40,dl_src=02:e9:0a:00:00:02",
    }
    assert matched(VM, "output:40") == {"in_port=41"}


def test_what_only_servers_and_routers_say_and_all_else_is_dropped() -> None:
    assert matched(VM, "drop") == {
        "udp,in_port=40,tp_src=67",
        "udp6,in_port=40,tp_src=547",
        "icmp6,in_port=40,icmp_type=134",
        "icmp6,in_port=40,icmp_type=137",
        "ip,in_port=40",
        "arp,in_port=40",
        "in_port=40",
    }


def test_a_vm_without_an_address_is_known_by_its_mac_alone() -> None:
    passing = matched(replace(VM, ip=None), "output:41")
    assert "ip,in_port=40,dl_src=02:e9:0a:00:00:02" in passing
    assert "arp,in_port=40,dl_src=02:e9:0a:00:00:02,arp_sha=02:e9:0a:00:00:02" in passing


def test_setting_takes_the_ports_from_whoever_had_them_before() -> None:
    first, second, third, *added = guard_flows.setting([VM])
    assert first == f"delete cookie={COOKIE}/-1"
    assert (second, third) == ("delete in_port=40", "delete in_port=41")
    assert {line.removeprefix("add ") for line in added} == guard_flows.flows(VM)


def test_only_what_differs_is_put_right() -> None:
    other = replace(VM, vm="f" * 32, tap=42)
    printed = "OFPST_FLOW reply (OF1.3) (xid=0x2):\n" + "".join(
        f" {flow}\n" for flow in [*guard_flows.flows(VM), *guard_flows.flows(other)]
    )
    present = guard_flows.read(printed)
    assert guard_flows.differences([VM, other], present) == ([], [])
    assert guard_flows.differences([VM], present) == ([], ["0x" + "f" * 16])
    assert guard_flows.differences([replace(VM, ip="10.0.0.3")], present)[0] == [
        replace(VM, ip="10.0.0.3")
    ]
    assert guard_flows.differences([VM, other], {}) == ([VM, other], [])


@pytest.mark.parametrize("number", [40, 40 | 0x8000])
def test_a_taps_row_says_all_of_it(number: int) -> None:
    ids = {"ccf-vm": VM.vm, "attached-mac": VM.mac, "ccf-ip": "10.0.0.2"}
    row = InterfaceRow(uuid="i", name="ccf-0", external_ids=ids, ofport_request=number)
    assert guard_flows.guarded(row) == VM
    assert guard_flows.guarded(replace(row, external_ids={})) is None
    assert guard_flows.guarded(replace(row, ofport_request=None)) is None


def test_of_what_a_watched_vm_sends_and_may_collectors_are_told() -> None:
    watched = replace(VM, sampling=64, vni=1001)
    sample = (
        "sample(probability=1023,collector_set_id=40,obs_domain_id=1001,obs_point_id=40,"
        "sampling_port=40,ingress)"
    )
    assert matched(watched, f"{sample},output:41") == matched(VM, "output:41")
    assert matched(watched, "output:40") == {"in_port=41"}
    limited = replace(watched, bandwidth=10)
    assert matched(limited, f"meter:40,{sample},output:41") == matched(VM, "output:41")
    every = replace(watched, sampling=1)
    assert all("sample" not in one or "=65535," in one for one in guard_flows.flows(every))
    seldom = replace(watched, sampling=1_000_000)
    assert all("sample" not in one or "probability=1," in one for one in guard_flows.flows(seldom))
    ids = {"ccf-vm": VM.vm, "attached-mac": VM.mac, "ccf-sampling": "64", "ccf-vni": "1001"}
    row = InterfaceRow(uuid="i", name="ccf-0", external_ids=ids, ofport_request=40)
    assert guard_flows.guarded(row) == replace(watched, ip=None)


def test_what_a_vm_with_a_bandwidth_sends_passes_its_meter() -> None:
    limited = replace(VM, bandwidth=10)
    assert matched(limited, "meter:40,output:41") == matched(VM, "output:41")
    assert matched(limited, "output:41") == set()
    assert matched(limited, "output:40") == {"in_port=41"}
    assert guard_flows.metered([limited, VM]) == {40: 10}
