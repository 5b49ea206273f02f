"""Which host gets a VM: pure filters and weights over columns of hosts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ccfd.errors import Refused
from ccfd.sched.hosts import Hosts, Numbers, Truths, Want
from ccfd.settings import Policy

EXPLAINED = 50
"""Hosts whose reason is told at most."""

# What a weight is made of, in millionths of a load: each outweighs all that come after it.
_VM = 64_000_000
_TENTH = 4_000_000
_FETCH = 2_000_000
_NEVER = np.iinfo(np.int64).max


class Filter(NamedTuple):
    """Tells which hosts pass (None: all), and why the one at a place does not."""

    passes: Callable[[Hosts, Want], Truths | None]
    why: Callable[[Hosts, Want, int], str]


def _host(hosts: Hosts, want: Want) -> Truths | None:
    return None if want.host is None else hosts.at([hosts.names.index(want.host)])


def _same_host(hosts: Hosts, want: Want) -> Truths | None:
    if not want.same_host:
        return None
    places = {hosts.where.get(name) for name in want.same_host}
    return hosts.at(place for place in places if place is not None and len(places) == 1)


def _different_host(hosts: Hosts, want: Want) -> Truths | None:
    places = {hosts.where[name] for name in want.different_host if name in hosts.where}
    return ~hosts.at(places) if places else None


def _room(row: int, size: str, unit: str) -> Filter:
    def passes(hosts: Hosts, want: Want) -> Truths:
        fits: Truths = hosts.used[row] + getattr(want, size) <= hosts.limit[row]
        return fits

    def why(hosts: Hosts, want: Want, place: int) -> str:
        free = hosts.limit[row, place] - hosts.used[row, place]
        return f"{free} {unit} free, {getattr(want, size)} wanted"

    return Filter(passes, why)


def _missing(hosts: Hosts, want: Want, place: int) -> str:
    name = next(name for name in want.same_host if hosts.where.get(name) != place)
    return f"{name} is not here"


def _present(hosts: Hosts, want: Want, place: int) -> str:
    name = next(name for name in want.different_host if hosts.where.get(name) == place)
    return f"{name} is here"


FILTERS = {
    "state": Filter(
        lambda hosts, _: hosts.up,
        lambda hosts, _, place: f"the host is {hosts.states[place]}",
    ),
    "island": Filter(
        lambda hosts, want: hosts.on.get(want.island, hosts.nowhere()),
        lambda hosts, want, place: f"on island {hosts.islands[place]}, not {want.island}",
    ),
    "host": Filter(_host, lambda _, want, __: f"host {want.host} was asked for"),
    "same_host": Filter(_same_host, _missing),
    "different_host": Filter(_different_host, _present),
    "cpu": _room(0, "cpu", "vCPUs"),
    "ram": _room(1, "ram", "MiB"),
    "disk": _room(2, "disk", "GiB"),
}


def weights(hosts: Hosts, want: Want, policy: Policy) -> Numbers:
    """Weigh the hosts, lightest best.

    First: fewer VMs of the slice (`pack`: more); then the load that it would have, in tenths of its
    fullest size, less is better (`pack`: more); then the image is there; then the load exactly.
    """
    # In tenths before the image: else all would go to the first host that has it.
    after = hosts.used + np.array([[want.cpu], [want.ram], [want.disk]])
    load = (after * hosts.scale).max(axis=0).astype(np.int64)
    weight: Numbers = hosts.vms * _VM + load // 100_000 * _TENTH + load
    if policy == "pack":
        weight = -weight
    there = hosts.images.get(want.image)
    if there is not None:
        weight -= there * _FETCH
    return weight


def choose(hosts: Hosts, want: Want, policy: Policy, beyond: int = 0) -> int:
    """Choose the place of the host for *want*; of equal ones the first by name.

    With *beyond*, not the best that fits but one with so many better ones, if there are so many.
    Raises `Refused` (`no_valid_host`; details: `filters`, how many hosts each turned away, and
    `hosts`, the first reason for each, at most 50; `host_not_found` where one was asked for).
    """
    if want.host is not None and want.host not in hosts.names:
        raise Refused("host_not_found", f"no host is called {want.host}")
    fits = np.ones(len(hosts.names), dtype=np.bool_)
    for one in FILTERS.values():
        passing = one.passes(hosts, want)
        if passing is not None:
            fits &= passing
    fitting = int(np.count_nonzero(fits))
    if not fitting:
        raise _explained(hosts, want)
    weight = np.where(fits, weights(hosts, want, policy), _NEVER)
    if not beyond:
        return int(weight.argmin())
    rank = min(beyond, fitting - 1)
    return int(weight.argpartition(rank)[rank])


def _explained(hosts: Hosts, want: Want) -> Refused:
    turned_away: dict[str, int] = {}
    reasons: dict[str, str] = {}
    left = ~hosts.nowhere()
    for name, one in FILTERS.items():
        passing = one.passes(hosts, want)
        if passing is None:
            continue
        stopped = np.flatnonzero(left & ~passing)
        left &= passing
        if stopped.size:
            turned_away[name] = stopped.size
        for place in map(int, stopped[:EXPLAINED]):
            reasons[hosts.names[place]] = f"{name}: {one.why(hosts, want, place)}"
    return Refused(
        "no_valid_host",
        f"none of {len(hosts.names)} hosts can take the VM {want.name}; details say why",
        details={
            "vm": want.name,
            "filters": turned_away,
            "hosts": dict(sorted(reasons.items())[:EXPLAINED]),
        },
    )


def place(hosts: Hosts, wants: Iterable[Want], policy: Policy, beyond: int = 0) -> list[str]:
    """Choose a host for each of *wants*, each seeing what those before it took."""
    chosen = []
    for want in wants:
        found = choose(hosts, want, policy, beyond)
        chosen.append(hosts.names[found])
        hosts = hosts.having(want, found)
    return chosen
