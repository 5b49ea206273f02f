"""What counts as a difference, and what is none of ours."""

from dataclasses import replace

import pytest

from ccfd.handlers import reconcile_things as things
from ccfd.handlers.layout import Layout
from ccfd.handlers.reconcile_compare import (
    Findings,
    Present,
    SeenHost,
    Unfinished,
    Wanted,
    compare,
)
from ccfd.handlers.reconcile_things import Thing, WantedSlice, wanted_slice
from ccfd.handlers.vm_states import Vm
from ccfd.model import names
from ccfd.model.network import Port
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.network.dhcp_files import mark
from ccfd.network.inventory import Inventory, SeenBridge, SeenPort
from ccfd.network.node import SeenSlice
from ccfd.vt.domains import Found
from ccfd.vt.metadata import Owner
from tests.harness import lab_settings
from tests.twins import TINY

A = "aaaaaaaa-0000-4000-8000-000000000000"
B = "bbbbbbbb-0000-4000-8000-000000000000"
STRAY = "cccccccc-0000-4000-8000-000000000000"
NAMESPACE, DHCP = things.namespace(1), things.dhcp(1)


def vm(identity: str, host: str) -> PlannedVm:
    return PlannedVm(
        id=identity,
        name=identity[:1],
        host=host,
        ip="10.0.0.2",
        mac="02:01:0a:00:00:02",
        cpu=1,
        ram=128,
        disk=1,
        flavor="tiny",
        image=TINY,
    )


PLANNED = PlannedSlice(
    name="demo", vni=1, address="10.0.0.1/26", dhcp=True, vms=(vm(A, "h1"), vm(B, "h2"))
)


def demo(state: str = "running") -> WantedSlice:
    layout = Layout(lab_settings("sqlite+aiosqlite://"))
    return wanted_slice(layout, PLANNED, {A: state, B: "shutoff"})


def wanted(state: str = "running") -> Wanted:
    return Wanted(
        slices={"demo": demo(state)},
        left_alone=frozenset({"busy"}),
        vms={
            A: Vm(slice="demo", host="h1", state=state),
            B: Vm(slice="demo", host="h2", state="shutoff"),
        },
        gone={},
    )


def found(identity: str, state: str = "running", reason: str = "", of: str = "demo") -> Found:
    owner = Owner(slice=of, name="a", kind="slice", mac="", digest="")
    return Found(vm=identity, state=state, reason=reason, owner=owner)


def volumes(*vms: str) -> frozenset[str]:
    return frozenset(name(one) for one in vms for name in (names.disk_volume, names.seed_volume))


def inventory(host: str) -> Inventory:
    (bridge,) = (one for one in demo().bridges if one.host == host)
    return Inventory(
        bridges=(SeenBridge(name="ccf-1", slice="demo", vni=1, about=bridge.about),),
        ports=tuple(seen for port in bridge.ports for seen in seen_ports(port, host)),
    )


def seen_ports(port: Port, host: str) -> list[SeenPort]:
    """Show what stands for a port: for a VM's its tap on the guard, and the pair of patches."""
    seen = SeenPort(
        name=port.name,
        slice="demo",
        host=host,
        vm=port.vm,
        kind=port.kind,
        bridge="ccf-1",
        ofport=1,
        error=None,
    )
    if port.vm is None:
        return [seen]
    tap = replace(seen, bridge=names.GUARD, vni=1, mac=port.mac, ip=port.ip)
    return [
        replace(seen, name=names.patch(port.vm), vm=None),
        replace(tap, name=names.guard_patch(port.vm), vm=None, mac=None, ip=None),
        tap,
    ]


WHOLE = Present(
    switches={host: inventory(host) for host in ("node", "h1", "h2")},
    hosts={
        "h1": SeenHost(domains=(found(A),), volumes=volumes(A)),
        "h2": SeenHost(domains=(found(B, "shutoff", "shutdown"),), volumes=volumes(B)),
    },
    node=(SeenSlice(vni=1, slice="demo", joined=True, dhcp=mark(*demo().dhcp)),),
)


def on(host: str, seen: SeenHost) -> Present:
    return replace(WHOLE, hosts={**WHOLE.hosts, host: seen})


def switched(host: str, seen: Inventory) -> Present:
    return replace(WHOLE, switches={**WHOLE.switches, host: seen})


def told(findings: Findings) -> list[tuple[str, Thing, str]]:
    return [(one.action, one.thing, one.slice) for one in findings.repairs]


def test_what_is_as_it_should_be_differs_in_nothing() -> None:
    assert compare(wanted(), WHOLE) == Findings()


def test_nothing_is_concluded_about_who_said_nothing() -> None:
    assert compare(wanted(), Present(switches={}, hosts={}, node=None)) == Findings()


def test_an_empty_host_gets_everything_back_that_shall_run_there() -> None:
    empty = Present(
        switches=dict.fromkeys(("node", "h1", "h2"), Inventory(bridges=(), ports=())),
        hosts={"h1": SeenHost(volumes=volumes(A)), "h2": SeenHost(volumes=volumes(B))},
        node=(),
    )
    assert told(compare(wanted(), empty)) == [
        ("put back", thing, "demo")
        for thing in (
            NAMESPACE,
            DHCP,
            *(things.bridge(1, one.host) for one in demo().bridges),
            things.domain(A, "h1"),
        )
    ]


@pytest.mark.parametrize("serves", [None, "", "something else"])
def test_a_dhcp_server_must_run_and_serve_what_its_slice_has(serves: str | None) -> None:
    node = (SeenSlice(vni=1, slice="demo", joined=True, dhcp=serves),)
    assert told(compare(wanted(), replace(WHOLE, node=node))) == [("put back", DHCP, "demo")]


@pytest.mark.parametrize(
    "ports",
    [
        inventory("h1").ports[1:],
        (*inventory("h1").ports, replace(inventory("h1").ports[0], name="ccf-stray")),
        (replace(inventory("h1").ports[0], bridge=None), *inventory("h1").ports[1:]),
        inventory("h1").ports[:-1],
        (*inventory("h1").ports[:-2], inventory("h1").ports[-1]),
        (*inventory("h1").ports[:-1], replace(inventory("h1").ports[-1], ip="10.0.0.9")),
        (*inventory("h1").ports[:-1], replace(inventory("h1").ports[-1], vni=0)),
        (*inventory("h1").ports, replace(inventory("h1").ports[-1], name="ccf-stray")),
    ],
    ids=[
        *("missing", "too many", "elsewhere"),
        *("no tap", "no patch", "another address", "another network", "too many guarded"),
    ],
)
def test_a_bridge_differs_by_its_ports(ports: tuple[SeenPort, ...]) -> None:
    seen = switched("h1", replace(inventory("h1"), ports=ports))
    assert told(compare(wanted(), seen)) == [("put back", things.bridge(1, "h1"), "demo")]


def test_what_is_left_on_the_guard_goes_with_its_bridge_though_that_is_gone() -> None:
    left = replace(inventory("h1").ports[-1], slice="gone", vni=7)
    seen = inventory("h1")
    findings = compare(wanted(), switched("h1", replace(seen, ports=(*seen.ports, left))))
    assert told(findings) == [("remove", things.bridge(7, "h1"), "gone")]


def test_another_hosts_ports_on_a_shared_switch_are_no_difference() -> None:
    seen = inventory("h1")
    other = replace(seen.ports[0], name="ccf-other", host="h9")
    assert compare(wanted(), switched("h1", replace(seen, ports=(*seen.ports, other)))) == (
        Findings()
    )


def test_another_slices_namespace_is_not_ours() -> None:
    seen = replace(WHOLE, node=(SeenSlice(vni=1, slice="busy", joined=True, dhcp="…"),))
    assert [thing for _, thing, _ in told(compare(wanted(), seen))] == [NAMESPACE, DHCP]


@pytest.mark.parametrize("reason", ["unknown", "daemon", "failed"])
def test_a_domain_whose_host_began_anew_runs_again(reason: str) -> None:
    seen = on("h1", SeenHost(domains=(found(A, "shutoff", reason),), volumes=volumes(A)))
    findings = compare(wanted(), seen)
    assert told(findings) == [("put back", things.domain(A, "h1"), "demo")]
    assert findings.observed == ()


@pytest.mark.parametrize(
    ("reason", "state"),
    [("destroyed", "shutoff"), ("shutdown", "shutoff"), ("crashed", "crashed")],
)
def test_a_domain_that_somebody_ended_stays_off_and_its_vm_says_so(reason: str, state: str) -> None:
    seen = on("h1", SeenHost(domains=(found(A, "shutoff", reason),), volumes=volumes(A)))
    findings = compare(wanted(), seen)
    assert findings.repairs == ()
    (observed,) = findings.observed
    assert (observed.vm, observed.was, observed.now, observed.reason) == (
        A,
        "running",
        state,
        reason,
    )


def test_a_vm_that_is_off_stays_off_after_its_host_began_anew() -> None:
    seen = on("h2", SeenHost(domains=(found(B, "shutoff", "unknown"),), volumes=volumes(B)))
    assert compare(wanted(), seen) == Findings()


def test_a_vm_without_its_disk_is_lost_and_not_invented() -> None:
    seen = on("h1", SeenHost(volumes=frozenset({names.seed_volume(A)})))
    findings = compare(wanted(), seen)
    assert findings.repairs == ()
    assert findings.lost == (things.disk(A, "h1"),)


def test_what_carries_our_tags_and_nothing_claims_is_an_orphan() -> None:
    bridge = SeenBridge(name="ccf-7", slice="ghost", vni=7)
    here = inventory("h1")
    seen = replace(
        on(
            "h2",
            SeenHost(
                domains=(found(B, "shutoff", "shutdown"), found(STRAY, of="ghost")),
                volumes=volumes(B, STRAY),
            ),
        ),
        switches={**WHOLE.switches, "h1": replace(here, bridges=(*here.bridges, bridge))},
        node=(*(WHOLE.node or ()), SeenSlice(vni=7, slice="ghost", joined=False, dhcp="…")),
    )
    assert told(compare(wanted(), seen)) == [
        ("remove", thing, "ghost")
        for thing in (
            things.bridge(7, "h1"),
            things.dhcp(7),
            things.namespace(7),
            things.domain(STRAY, "h2"),
            things.disk(STRAY, "h2"),
        )
    ]


def test_a_disk_alone_is_an_orphan_of_nobody() -> None:
    seen = on("h2", replace(WHOLE.hosts["h2"], volumes=volumes(B, STRAY)))
    assert told(compare(wanted(), seen)) == [("remove", things.disk(STRAY, "h2"), "")]


def test_a_vms_things_are_never_orphans_wherever_they_are() -> None:
    seen = on("h2", SeenHost(domains=(found(A), *WHOLE.hosts["h2"].domains), volumes=volumes(A, B)))
    assert compare(wanted(), seen) == Findings()


def test_a_slice_that_a_request_is_at_work_on_is_left_alone() -> None:
    seen = replace(
        on("h2", SeenHost(domains=(*WHOLE.hosts["h2"].domains, found(STRAY, of="busy")))),
        node=(*(WHOLE.node or ()), SeenSlice(vni=9, slice="busy", joined=True, dhcp="…")),
    )
    assert compare(wanted(), seen) == Findings()


def test_a_deletion_is_finished_once_every_place_answers() -> None:
    known = replace(
        wanted(), slices={}, left_alone=frozenset({"demo"}), deleting=frozenset({"demo"})
    )
    assert compare(known, WHOLE).unfinished == (Unfinished(slice="demo"),)
    half = replace(WHOLE, hosts={"h1": WHOLE.hosts["h1"]})
    assert compare(known, half).unfinished == ()


def names_of(missing: set[Thing]) -> list[list[str]]:
    steps = things.put_back(demo(), frozenset(missing))
    return [
        sorted(f"{step.name} {step.args.get('host', '')}" for step in stage)
        for stage in steps.stages
    ]


def test_a_lost_namespace_takes_bridge_and_server_with_it() -> None:
    assert names_of({NAMESPACE}) == [
        ["stop-dhcp "],
        ["open-namespace "],
        ["make-bridge node", "serve-dhcp "],
    ]


def test_a_lost_domain_is_started_on_the_bridge_that_stands() -> None:
    assert names_of({things.domain(A, "h1")}) == [["boot "]]
