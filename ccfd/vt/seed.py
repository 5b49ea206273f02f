"""What cloud-init finds on a VM's seed.

A NoCloud volume (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html):
an ISO 9660 image labelled `cidata` with `meta-data`, `user-data` and, for a fixed address,
`network-config`. The same input gives the
same bytes, so that a seed on a host can be compared with the one that is wanted.
"""

import io
import json
import time
from types import SimpleNamespace

import pycdlib
import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib

from ccfd.errors import Refused
from ccfd.model.vm import Link

LABEL = "cidata"


def _stop_clock() -> None:
    """Let pycdlib date everything 1980-01-01 UTC: it takes no date, and is used only here."""
    stopped = SimpleNamespace(
        **{**vars(time), "time": lambda: 315_532_800.0, "localtime": time.gmtime}
    )
    for module in (pycdlib.pycdlib, pycdlib.headervd, pycdlib.dates):
        vars(module)["time"] = stopped


_stop_clock()


def meta_data(vm: str, hostname: str) -> str:
    """Write `meta-data`; the instance id is the VM's UUID, so that a reboot is no new instance."""
    return f"instance-id: {vm}\nlocal-hostname: {hostname}\n"


def user_data(hostname: str, ssh_keys: tuple[str, ...]) -> str:
    """Write `user-data` in the plainest YAML, which readers without a YAML parser know as well.

    Raises `Refused` (`invalid_message`) for a key that is not one line.
    """
    lines = ["#cloud-config", f"hostname: {hostname}"]
    if ssh_keys:
        lines.append("ssh_authorized_keys:")
        lines += [f"  - {_scalar(key)}" for key in ssh_keys]
    return "\n".join(lines) + "\n"


def network_config(link: Link) -> str:
    """Write `network-config`, version 2, for a VM whose address is fixed.

    https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html
    """
    return (
        "version: 2\n"
        "ethernets:\n"
        "  eth0:\n"
        f"    match: {{macaddress: '{link.mac}'}}\n"
        "    set-name: eth0\n"
        f"    addresses: ['{link.address}']\n"
        f"    mtu: {link.mtu}\n"
    )


def build(vm: str, hostname: str, ssh_keys: tuple[str, ...], link: Link | None = None) -> bytes:
    """Make the seed of *vm*: 66 KiB in less than a millisecond."""
    files = {
        "meta-data": meta_data(vm, hostname).encode(),
        "user-data": user_data(hostname, ssh_keys).encode(),
    }
    if link is not None:
        files["network-config"] = network_config(link).encode()
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    try:
        for name, content in files.items():
            iso.add_fp(
                io.BytesIO(content),
                len(content),
                iso_path=f"/{name.upper().replace('-', '_')}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
            )
        out = io.BytesIO()
        iso.write_fp(out)
    finally:
        iso.close()
    return out.getvalue()


def _scalar(key: str) -> str:
    """Write one SSH key, quoted only where YAML would read something else than a string."""
    key = key.strip()
    if not key or not key.isprintable():
        raise Refused("invalid_message", "an SSH key is one line of printable characters")
    plain = key[0].isalpha() and ": " not in key and " #" not in key and not key.endswith(":")
    return key if plain else json.dumps(key)
