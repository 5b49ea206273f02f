"""Writes what a slice's DHCP server reads: its configuration and its hosts, whole (dnsmasq(8))."""

import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ccfd.model.network import Dhcp
from ccfd.network.links import INSIDE

CONFIG = "dnsmasq.conf"
HOSTS = "hosts"
LEASES = "leases"
PID = "pid"

LEASE_SECONDS = 3600
"""How long a VM may keep its address without asking again; it asks after half of it."""


@dataclass(frozen=True, slots=True)
class Files:
    """The texts of the two files; the hosts can be read again without a restart (SIGHUP)."""

    config: str
    hosts: str


def render(dhcp: Dhcp, place: Path, *, user: str) -> Files:
    """Return the files of the slice's server, whose directory is *place*, run as *user*.

    Without a value, `dhcp-option=3` and `dhcp-option=6` keep dnsmasq from naming itself as the
    router and the name server, which it does by default.
    """
    network = ipaddress.IPv4Interface(dhcp.address).network
    lines = [
        f"# DHCP of slice {dhcp.slice}, written by ccfd: do not edit, it is replaced as a whole.",
        "port=0",
        "no-hosts",
        # A static address needs no test by ping, which delays the first answer by seconds.
        "no-ping",
        # Not bound to the link but found by its name: a leg that was made anew is served at once.
        f"interface={INSIDE}",
        "except-interface=lo",
        f"dhcp-range={network.network_address},static,{network.netmask},{LEASE_SECONDS}",
        "dhcp-ignore=tag:!known",
        "dhcp-authoritative",
        # Options stay in their own field: some clients do not read those in `file` and `sname`.
        "dhcp-no-override",
        f"dhcp-lease-max={network.num_addresses}",
        ",".join(["dhcp-option=3", *([dhcp.router] if dhcp.router is not None else [])]),
        ",".join(["dhcp-option=6", *dhcp.dns]),
        *([",".join(["dhcp-option=42", *dhcp.ntp])] if dhcp.ntp else []),
        f"dhcp-option=26,{dhcp.mtu}",
        f"dhcp-hostsfile={place / HOSTS}",
        f"dhcp-leasefile={place / LEASES}",
        f"pid-file={place / PID}",
        f"user={user}",
        "quiet-dhcp",
    ]
    hosts = sorted(dhcp.leases, key=lambda lease: ipaddress.IPv4Address(lease.ip))
    return Files(
        config="".join(f"{line}\n" for line in lines),
        hosts="".join(f"{lease.mac},{lease.ip},{lease.name}\n" for lease in hosts),
    )


def mark(dhcp: Dhcp) -> str:
    """Return what tells this service from any other, wherever its files are: a digest."""
    files = render(dhcp, Path(), user="")
    return hashlib.sha256(f"{files.config}\0{files.hosts}".encode()).hexdigest()[:32]


def to_check(files: Files) -> str:
    """Return one configuration that makes `dnsmasq --test` read the hosts, too."""
    return files.config + "".join(f"dhcp-host={line}\n" for line in files.hosts.splitlines())
