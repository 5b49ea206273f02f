"""Which host a VM gets, and what is said when there is none."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccfd.errors import Refused
from ccfd.sched import placement
from ccfd.sched.hosts import HostRow, Hosts, Want
from ccfd.settings import Policy

SIZES = ("cpu", "ram", "disk")


def host(name: str, **about: Any) -> HostRow:
    values = {"island": "default", "state": "up", "cpu_limit": 8, "ram_limit": 1024}
    room = {"disk_limit": 10, "cpu_used": 0, "ram_used": 0, "disk_used": 0}
    return HostRow(name=name, **{**values, **room, **about})


def want(name: str, **wish: Any) -> Want:
    return Want(name=name, **{"cpu": 1, "ram": 128, "disk": 1, "island": "default", **wish})


def place(hosts: list[HostRow], wants: list[Want], policy: Policy = "spread") -> list[str]:
    return placement.place(Hosts.of(hosts), wants, policy)


def test_the_vms_of_one_request_are_spread() -> None:
    assert place([host("h1"), host("h2")], [want("a"), want("b"), want("c")]) == ["h1", "h2", "h1"]


def test_or_packed() -> None:
    hosts = [host("h1"), host("h2"), host("h3", ram_used=256)]
    wants = [want(name) for name in "abcdefgh"]
    assert place(hosts, wants, "pack") == ["h3"] * 6 + ["h1"] * 2


def test_slices_are_spread_over_the_load_of_the_others() -> None:
    assert place([host("h1", ram_used=512), host("h2", ram_used=256)], [want("a")]) == ["h2"]


def test_of_hosts_about_as_full_one_with_the_image_is_taken() -> None:
    hosts = [host("h1", ram_limit=8192), host("h2", ram_limit=8192, images=("sum",))]
    assert place(hosts, [want("a", image="sum")]) == ["h2"]
    assert place(hosts, [want("a", image="other")]) == ["h1"]


@pytest.mark.parametrize("policy", ["spread", "pack"])
def test_the_first_host_with_the_image_does_not_get_everything(policy: Policy) -> None:
    hosts = Hosts.of([host("h1", images=("sum",)), host("h2")])
    chosen = []
    for number in range(8):  # each of a slice of its own
        found = placement.choose(hosts, want("a", image="sum"), policy)
        hosts = replace(hosts.having(want(f"{number}", image="sum"), found), vms=hosts.vms)
        chosen.append(hosts.names[found])
    assert chosen.count("h2") == (4 if policy == "spread" else 0)


def test_who_has_to_pass_some_gets_the_next_best() -> None:
    hosts = Hosts.of(
        [host(f"h{n}", ram_used=100 * n) for n in (3, 0, 2, 1)] + [host("h4", cpu_limit=0)]
    )
    chosen = [placement.choose(hosts, want("a"), "spread", beyond) for beyond in range(6)]
    assert [hosts.names[one] for one in chosen] == ["h0", "h1", "h2", "h3", "h3", "h3"]
    assert hosts.names[placement.choose(hosts.without("h0"), want("a"), "spread")] == "h1"


def test_a_vm_may_ask_to_be_with_or_away_from_another() -> None:
    hosts = [host("h1"), host("h2")]
    wants = [want("a"), want("b", same_host=("a",)), want("c", different_host=("a", "b"))]
    assert place(hosts, wants) == ["h1", "h1", "h2"]


def test_nothing_is_with_two_that_are_apart() -> None:
    hosts = [host("h1", vms=("a",)), host("h2", vms=("b",))]
    with pytest.raises(Refused) as refused:
        place(hosts, [want("c", same_host=("a", "b"))])
    assert refused.value.details["hosts"] == {
        "h1": "same_host: b is not here",
        "h2": "same_host: a is not here",
    }


def test_what_the_first_vm_takes_the_second_cannot_have() -> None:
    with pytest.raises(Refused) as refused:
        place([host("h1", ram_limit=200)], [want("a"), want("b")])
    assert refused.value.code == "no_valid_host"
    assert refused.value.details["filters"] == {"ram": 1}
    assert refused.value.details["hosts"] == {"h1": "ram: 72 MiB free, 128 wanted"}


def test_every_host_says_its_first_reason() -> None:
    hosts = [
        host("h1", state="down", cpu_limit=0),
        host("h2", island="other"),
        host("h3", cpu_limit=0),
        host("h4", disk_used=10),
        host("h5", vms=("b",)),
    ]
    with pytest.raises(Refused) as refused:
        place(hosts, [want("a", different_host=("b",))])
    assert refused.value.details == {
        "vm": "a",
        "filters": {"state": 1, "island": 1, "different_host": 1, "cpu": 1, "disk": 1},
        "hosts": {
            "h1": "state: the host is down",
            "h2": "island: on island other, not default",
            "h3": "cpu: 0 vCPUs free, 1 wanted",
            "h4": "disk: 0 GiB free, 1 wanted",
            "h5": "different_host: b is here",
        },
    }


def test_where_there_are_no_hosts_there_is_none() -> None:
    with pytest.raises(Refused, match="none of 0 hosts") as refused:
        place([], [want("a")])
    assert refused.value.code == "no_valid_host"


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(Refused) as refused:
        place([host("h1")], [want("a", host="h9")])
    assert refused.value.code == "host_not_found"


def test_many_hosts_are_explained_by_at_most_fifty() -> None:
    hosts = [host(f"h{n:03}", state="draining" if n % 2 else "down") for n in range(200)]
    with pytest.raises(Refused) as refused:
        place(hosts, [want("a")])
    assert refused.value.details["filters"] == {"state": 200}
    assert list(refused.value.details["hosts"]) == [f"h{n:03}" for n in range(50)]


class Plain:
    """The placement again, host by host and word by word."""

    def __init__(self, rows: list[HostRow]) -> None:
        self.rows = {row.name: row for row in rows}

    def first_reason(self, row: HostRow, one: Want) -> str | None:
        after = {size: getattr(row, f"{size}_used") + getattr(one, size) for size in SIZES}
        reasons = {
            "state": row.state != "up",
            "island": row.island != one.island,
            "host": one.host not in (None, row.name),
            "same_host": any(name not in row.vms for name in one.same_host),
            "different_host": any(name in row.vms for name in one.different_host),
            **{size: after[size] > getattr(row, f"{size}_limit") for size in SIZES},
        }
        return next((name for name, holds in reasons.items() if holds), None)

    def order(self, row: HostRow, one: Want, policy: Policy) -> tuple[Any, ...]:
        load = max(
            int((getattr(row, f"{size}_used") + getattr(one, size)) * (1e6 / limit))
            for size in SIZES
            for limit in [max(getattr(row, f"{size}_limit"), 1)]
        )
        sign = -1 if policy == "pack" else 1
        fetched = one.image not in row.images
        return (sign * len(row.vms), sign * (load // 100_000), fetched, sign * load, row.name)

    def place(self, wants: list[Want], policy: Policy) -> Any:
        chosen = []
        for one in wants:
            reasons = {row.name: self.first_reason(row, one) for row in self.rows.values()}
            fitting = [row for row in self.rows.values() if reasons[row.name] is None]
            if not fitting:
                said = [reason for reason in reasons.values() if reason]
                return {reason: said.count(reason) for reason in said}
            best = min(fitting, key=lambda row: self.order(row, one, policy))
            sizes = {
                f"{size}_used": getattr(best, f"{size}_used") + getattr(one, size) for size in SIZES
            }
            self.rows[best.name] = best._replace(
                vms=(*best.vms, one.name), images=(*best.images, one.image), **sizes
            )
            chosen.append(best.name)
        return chosen


ISLANDS = st.sampled_from(("default", "default", "other"))
IMAGES = st.sampled_from(("one", "two"))


@st.composite
def hosts_and_wants(draw: st.DrawFn) -> tuple[list[HostRow], list[Want]]:
    count = draw(st.integers(0, 6))
    rows = []
    for number in range(count):
        limits = {"cpu": draw(st.integers(0, 8)), "ram": draw(st.integers(0, 1024)), "disk": 10}
        rows.append(
            HostRow(
                name=f"h{number}",
                island=draw(ISLANDS),
                state=draw(st.sampled_from(("up", "up", "up", "down", "draining"))),
                **{f"{size}_limit": limit for size, limit in limits.items()},
                **{f"{size}_used": draw(st.integers(0, limit)) for size, limit in limits.items()},
                vms=draw(st.sampled_from([(), (f"x{number}",), (f"x{number}", f"y{number}")])),
                images=tuple(draw(st.sets(IMAGES))),
            )
        )
    others = st.sampled_from(["a", "b", "x0", "x1", "y1", "x2", "nobody"])
    wants = [
        Want(
            name=name,
            cpu=draw(st.integers(1, 3)),
            ram=draw(st.integers(0, 400)),
            disk=draw(st.integers(1, 3)),
            island=draw(ISLANDS),
            image=draw(IMAGES),
            host=draw(st.sampled_from([None] * 5 + [row.name for row in rows])),
            same_host=tuple(
                draw(st.lists(others, max_size=2) if draw(st.booleans()) else st.just([]))
            ),
            different_host=tuple(draw(st.lists(others, max_size=2))),
        )
        for name in "abc"[: draw(st.integers(1, 3))]
    ]
    return rows, wants


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=hosts_and_wants(), policy=st.sampled_from(("spread", "pack")))
def test_any_placement_equals_the_plain_model(
    drawn: tuple[list[HostRow], list[Want]], policy: Policy
) -> None:
    rows, wants = drawn
    got: Any
    try:
        got = placement.place(Hosts.of(rows), wants, policy)
    except Refused as refused:
        got = refused.details["filters"]
    assert got == Plain(rows).place(wants, policy)
