"""What a VM may send, as OpenFlow flows of the guard: lines as `ovs-ofctl` reads and prints them.

From its tap a VM sends with its own MAC address only; IPv4 and ARP with its own address only (and,
to ask for it, with none), nothing as a DHCP server, no IPv6 router's advertisement or redirect.
What comes for it reaches it as it is. Everything of a VM carries its cookie: the first 16 digits of
its id. See ovs-fields(7) and ovs-ofctl(8), "Flow Syntax".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ccfd.network import samples
from ccfd.network.changes import BANDWIDTH, IP, SAMPLING, VM, VNI
from ccfd.network.guard import patch
from ccfd.network.ports import MAC, PARKED
from ccfd.network.rows import InterfaceRow

COOKIE_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A VM on the guard; `tap` is the number of its tap there. `ip` is None where it may be any.

    `bandwidth` is in Mbit/s; what it sends passes the meter with its tap's number then. Of what it
    sends collectors are told one packet of `sampling`, as one of network `vni`.
    """

    vm: str
    tap: int
    mac: str
    ip: str | None
    bandwidth: int | None = None
    sampling: int | None = None
    vni: int = 0


def guarded(row: InterfaceRow) -> Guarded | None:
    """Read what a tap's row says of its VM; None where it does not say it all."""
    vm, mac = row.external_ids.get(VM), row.external_ids.get(MAC)
    if not vm or not mac or row.ofport_request is None:
        return None
    bandwidth, sampling, vni = (
        int(text) if text.isdecimal() else None
        for text in (row.external_ids.get(key, "") for key in (BANDWIDTH, SAMPLING, VNI))
    )
    return Guarded(
        vm=vm,
        tap=row.ofport_request & ~PARKED,
        mac=mac,
        ip=row.external_ids.get(IP),
        bandwidth=bandwidth,
        sampling=sampling,
        vni=vni or 0,
    )


def cookie(vm: str) -> str:
    """Return the cookie of a VM's flows, as `ovs-ofctl` prints it."""
    return f"0x{int(vm.replace('-', '')[:COOKIE_DIGITS], 16):x}"


def flows(vm: Guarded) -> frozenset[str]:
    """List the VM's flows, in the very words of `ovs-ofctl --no-names --no-stats dump-flows`."""
    port, own = f"in_port={vm.tap}", f"in_port={vm.tap},dl_src={vm.mac}"
    out = f"output:{patch(vm.tap)}"
    if vm.sampling:
        out = f"{samples.action(vm.tap, vm.vni, vm.sampling)},{out}"
    if vm.bandwidth is not None:
        out = f"meter:{vm.tap},{out}"
    source, sender = (f",nw_src={vm.ip}", f",arp_spa={vm.ip}") if vm.ip else ("", "")
    lines = [
        # A server's answers: DHCP, DHCPv6.
        (400, f"udp,{port},tp_src=67", "drop"),
        (400, f"udp6,{port},tp_src=547", "drop"),
        # A router's: advertisement (RFC 4861, 4.2) and redirect (4.5).
        (400, f"icmp6,{port},icmp_type=134", "drop"),
        (400, f"icmp6,{port},icmp_type=137", "drop"),
        (300, f"ip,{own}{source}", out),
        # Who has no address yet: asks for one, and whether anybody else has it (RFC 5227, 2.1.1).
        (300, f"udp,{own},nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67", out),
        (300, f"arp,{own}{sender},arp_sha={vm.mac}", out),
        (300, f"arp,{own},arp_spa=0.0.0.0,arp_sha={vm.mac}", out),
        (200, f"ip,{port}", "drop"),
        (200, f"arp,{port}", "drop"),
        # Whatever else a tenant tries out. What is left comes with a foreign MAC.
        (100, own, out),
        (10, port, "drop"),
        (10, f"in_port={patch(vm.tap)}", f"output:{vm.tap}"),
    ]
    name = cookie(vm.vm)
    return frozenset(
        f"cookie={name}, priority={priority},{match} actions={actions}"
        for priority, match, actions in lines
    )


def setting(vms: Iterable[Guarded]) -> list[str]:
    """List the lines of a bundle that give *vms* their flows, and whoever had their ports none."""
    lines = []
    for vm in vms:
        lines += [
            *removal(cookie(vm.vm)),
            f"delete in_port={vm.tap}",
            f"delete in_port={patch(vm.tap)}",
            *(f"add {flow}" for flow in sorted(flows(vm))),
        ]
    return lines


def removal(known_by: str) -> list[str]:
    """List the lines of a bundle that remove all flows with a cookie."""
    return [f"delete cookie={known_by}/-1"]


def metered(vms: Iterable[Guarded]) -> dict[int, int]:
    """Return the meters that *vms* need: their Mbit/s by their numbers."""
    return {vm.tap: vm.bandwidth for vm in vms if vm.bandwidth is not None}


def read(printed: str) -> dict[str, frozenset[str]]:
    """Return the flows that `ovs-ofctl dump-flows` printed, by their cookies."""
    found: dict[str, set[str]] = {}
    for line in printed.splitlines():
        flow = line.strip()
        if flow.startswith("cookie="):
            found.setdefault(flow.removeprefix("cookie=").partition(",")[0], set()).add(flow)
    return {name: frozenset(lines) for name, lines in found.items()}


def differences(
    vms: Iterable[Guarded], present: Mapping[str, frozenset[str]]
) -> tuple[list[Guarded], list[str]]:
    """Return the VMs whose flows are not what they should be, and the cookies that are no VM's."""
    wanted = {cookie(vm.vm): vm for vm in vms}
    wrong = [vm for name, vm in wanted.items() if present.get(name) != flows(vm)]
    return wrong, sorted(present.keys() - wanted.keys())
