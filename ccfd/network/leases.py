"""Reads which leases a slice's DHCP server has given out (dnsmasq's lease file)."""

from dataclasses import dataclass

from ccfd.network.dhcp_files import LEASE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenLease:
    """A lease; times in seconds since the epoch, `name` None where the client has none."""

    expires: int
    mac: str
    ip: str
    name: str | None

    @property
    def renewed(self) -> int:
        """When the client asked for it last."""
        return self.expires - LEASE_SECONDS


def parse(text: str) -> tuple[GivenLease, ...]:
    """Read `expiry mac ip name client-id` lines; what is no IPv4 lease is passed over.

    The server may be writing: a last line without its end is not there yet.
    """
    found = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        if not line.endswith("\n") or len(words) != 5 or not words[0].isdecimal():
            continue
        expires, mac, ip, name, _ = words
        found.append(
            GivenLease(expires=int(expires), mac=mac, ip=ip, name=None if name == "*" else name)
        )
    return tuple(found)
