"""Which host gets a VM: pure filters and weights over a snapshot of the hosts."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ccfd.errors import Refused

EXPLAINED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A host as placement sees it: what is free of it, and which VMs of the slice it has."""

    name: str
    island: str
    state: str
    cpu: int
    ram: int
    disk: int
    vms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a VM needs: vCPUs, MiB, GiB, and where it may be."""

    name: str
    cpu: int
    ram: int
    disk: int
    island: str
    host: str | None = None
    same_host: tuple[str, ...] = ()
    different_host: tuple[str, ...] = ()


Filter = Callable[[HostView, Want], str | None]


def _state(host: HostView, _want: Want) -> str | None:
    return None if host.state == "up" else f"the host is {host.state}"


def _island(host: HostView, want: Want) -> str | None:
    return None if host.island == want.island else f"on island {host.island}, not {want.island}"


def _host(host: HostView, want: Want) -> str | None:
    return None if want.host in (None, host.name) else f"host {want.host} was asked for"


def _same_host(host: HostView, want: Want) -> str | None:
    missing = [name for name in want.same_host if name not in host.vms]
    return f"{missing[0]} is not here" if missing else None


def _different_host(host: HostView, want: Want) -> str | None:
    present = [name for name in want.different_host if name in host.vms]
    return f"{present[0]} is here" if present else None


def _cpu(host: HostView, want: Want) -> str | None:
    return None if host.cpu >= want.cpu else f"{host.cpu} vCPUs free, {want.cpu} wanted"


def _ram(host: HostView, want: Want) -> str | None:
    return None if host.ram >= want.ram else f"{host.ram} MiB free, {want.ram} wanted"


def _disk(host: HostView, want: Want) -> str | None:
    return None if host.disk >= want.disk else f"{host.disk} GiB free, {want.disk} wanted"


FILTERS: dict[str, Filter] = {
    "state": _state,
    "island": _island,
    "host": _host,
    "same_host": _same_host,
    "different_host": _different_host,
    "cpu": _cpu,
    "ram": _ram,
    "disk": _disk,
}


def weight(host: HostView) -> tuple[int, int, int, str]:
    """Order the hosts that fit, best first: the fewest VMs of the slice, then the most room."""
    return (len(host.vms), -host.ram, -host.cpu, host.name)


def choose(hosts: Iterable[HostView], want: Want) -> HostView:
    """Choose the host for *want*.

    Raises `Refused` (`no_valid_host`; details: `filters`, how many hosts each turned away, and
    `hosts`, the first reason for each, at most 50; `host_not_found` where one was asked for).
    """
    known = list(hosts)
    if want.host is not None and all(host.name != want.host for host in known):
        raise Refused("host_not_found", f"no host is called {want.host}")
    turned_away: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    fitting = []
    for host in known:
        for name, test in FILTERS.items():
            reason = test(host, want)
            if reason is not None:
                turned_away[name] += 1
                reasons[host.name] = f"{name}: {reason}"
                break
        else:
            fitting.append(host)
    if fitting:
        return min(fitting, key=weight)
    raise Refused(
        "no_valid_host",
        f"none of {len(known)} hosts can take the VM {want.name}; details say why",
        details={
            "vm": want.name,
            "filters": dict(turned_away),
            "hosts": dict(sorted(reasons.items())[:EXPLAINED]),
        },
    )


def place(hosts: Iterable[HostView], wants: Iterable[Want]) -> list[str]:
    """Choose a host for each of *wants*, each seeing what those before it took."""
    by_name = {host.name: host for host in hosts}
    chosen = []
    for want in wants:
        host = choose(by_name.values(), want)
        by_name[host.name] = replace(
            host,
            cpu=host.cpu - want.cpu,
            ram=host.ram - want.ram,
            disk=host.disk - want.disk,
            vms=host.vms | {want.name},
        )
        chosen.append(host.name)
    return chosen
