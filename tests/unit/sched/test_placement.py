"""Which host a VM gets, and what is said when there is none."""

import pytest

from ccfd.errors import Refused
from ccfd.sched.placement import HostView, Want, place


def host(name: str, *, vms: frozenset[str] = frozenset(), **room: int | str) -> HostView:
    values = {"island": "default", "state": "up", "cpu": 8, "ram": 1024, "disk": 10, **room}
    return HostView(name=name, vms=vms, **values)  # type: ignore[arg-type]  # mixed test data


def want(name: str, **wish: object) -> Want:
    values = {"cpu": 1, "ram": 128, "disk": 1, "island": "default", **wish}
    return Want(name=name, **values)  # type: ignore[arg-type]  # mixed test data


def test_the_vms_of_one_request_are_spread() -> None:
    assert place([host("h1"), host("h2")], [want("a"), want("b"), want("c")]) == ["h1", "h2", "h1"]


def test_a_vm_may_ask_to_be_with_or_away_from_another() -> None:
    hosts = [host("h1"), host("h2")]
    wants = [want("a"), want("b", same_host=("a",)), want("c", different_host=("a", "b"))]
    assert place(hosts, wants) == ["h1", "h1", "h2"]


def test_what_the_first_vm_takes_the_second_cannot_have() -> None:
    with pytest.raises(Refused) as refused:
        place([host("h1", ram=200)], [want("a"), want("b")])
    assert refused.value.code == "no_valid_host"
    assert refused.value.details["filters"] == {"ram": 1}
    assert refused.value.details["hosts"] == {"h1": "ram: 72 MiB free, 128 wanted"}


def test_every_host_says_its_first_reason() -> None:
    hosts = [
        host("h1", state="down"),
        host("h2", island="other"),
        host("h3", cpu=0),
        host("h4", disk=0),
    ]
    with pytest.raises(Refused) as refused:
        place(hosts, [want("a")])
    assert refused.value.details["filters"] == {"state": 1, "island": 1, "cpu": 1, "disk": 1}
    assert refused.value.details["hosts"]["h1"] == "state: the host is down"


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(Refused) as refused:
        place([host("h1")], [want("a", host="h9")])
    assert refused.value.code == "host_not_found"


def test_many_hosts_are_explained_by_at_most_fifty() -> None:
    with pytest.raises(Refused) as refused:
        place([host(f"h{n}", state="draining") for n in range(200)], [want("a")])
    assert refused.value.details["filters"] == {"state": 200}
    assert len(refused.value.details["hosts"]) == 50
