"""What do ccfd and the tests have to be told about a lab?"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping

from tests.lab.guest_image import controller_image, guest_image
from tests.lab.layout import (
    HTTP_PORT,
    NODE,
    OUTSIDE_ADDRESS,
    OVSDB_PORT,
    UNDERLAY_MTU,
    Layout,
)

CONTROLLER_IMAGE = "floodlight"
"""A name that users know; what it runs is Open vSwitch's own test controller."""

Table = Mapping[str, object]


def write(layout: Layout) -> None:
    """Write DIR/ccfd.toml, DIR/env, the secret for SSH keys, and the folder for DHCP's files."""
    token = secrets.token_urlsafe(24)
    secret = layout.dir / "ssh-key-secret"
    secret.touch(mode=0o600)
    secret.write_bytes(secrets.token_bytes(32))
    state = layout.dir / "network"
    state.mkdir()
    state.chmod(0o755)
    _write_private(layout, "ccfd.toml", "".join(_toml(_settings(layout, token))))
    _write_private(layout, "env", "".join(_env_lines(environment(layout, token))))


def place_images(layout: Layout) -> None:
    """Put the guest's disk image, and the OpenFlow controller's, where ccfd looks for images."""
    layout.images.mkdir()
    shutil.copy(guest_image(), layout.images / "tiny.qcow2")
    shutil.copy(controller_image(), layout.images / f"{CONTROLLER_IMAGE}.qcow2")


def environment(layout: Layout, token: str) -> dict[str, str]:
    """Return what DIR/env says."""
    hosts = {f"CCF_LIBVIRT_{host.upper()}": layout.libvirt_uri(host) for host in layout.compute}
    return {
        "CCF_AMQP_URL": layout.amqp_url,
        "CCF_DATABASE_URL": layout.database_url,
        "CCF_HTTP_URL": layout.http_url,
        "CCF_TOKEN": token,
        "CCF_SOCKET": str(layout.socket),
        "CCF_CONFIG": str(layout.dir / "ccfd.toml"),
        **hosts,
    }


def read_environment(layout: Layout) -> dict[str, str]:
    """Read DIR/env back."""
    lines = (layout.dir / "env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key: value[1:-1].replace("'\\''", "'") for key, _, value in pairs}


def _env_lines(values: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        quoted = value.replace("'", "'\\''")
        yield f"{key}='{quoted}'\n"


def _write_private(layout: Layout, name: str, text: str) -> None:
    path = layout.dir / name
    path.touch(mode=0o600)
    path.write_text(text)


def _settings(layout: Layout, token: str) -> dict[str, Table | list[Table]]:
    return {
        "broker": {"url": layout.amqp_url},
        "database": {"url": layout.database_url},
        "http": {
            "listen": f"{layout.management(NODE)}:{HTTP_PORT}",
            "socket": str(layout.socket),
            "public_url": layout.http_url,
        },
        "http.token": [
            {
                "name": "lab",
                "role": "operator",
                "sha256": hashlib.sha256(token.encode()).hexdigest(),
            }
        ],
        "network": [
            {"cidr": "10.0.0.0/8", "type": 1},
            {"cidr": "172.16.0.101/16", "type": 0},
            {"cidr": "203.0.113.10/24", "type": 2, "gateway": OUTSIDE_ADDRESS},
        ],
        "network_node": {
            "tunnel_ip": layout.tunnel(NODE),
            "external_interface": "br-ext",
            "ovsdb": "unix:/run/openvswitch/db.sock",
            "datapath_type": "netdev",
            "underlay_mtu": UNDERLAY_MTU,
            "state": str(layout.dir / "network"),
        },
        "host": [_host(layout, host) for host in layout.compute],
        "tls": {
            "ca": str(layout.pki / "cacert.pem"),
            "cert": str(layout.pki / "clientcert.pem"),
            "key": str(layout.pki / "clientkey.pem"),
        },
        "hypervisor": {"domain_type": "qemu", "pool": "/var/lib/libvirt/images"},
        "images": {"directory": str(layout.images)},
        "flavor": [{"name": "tiny", "cpu": 1, "ram": 128, "disk": 1}],
        "slices": {"ssh_key_secret_file": str(layout.dir / "ssh-key-secret")},
    }


def _host(layout: Layout, host: str) -> Table:
    return {
        "name": host,
        "libvirt": layout.libvirt_uri(host),
        "ovsdb": f"ssl:{layout.management(host)}:{OVSDB_PORT}",
        "tunnel_ip": layout.tunnel(host),
        "datapath_type": "netdev",
        "vnc": "tls",
        # All hosts share this machine; what its libvirt reports would be counted for each.
        "cpu": 16,
        "ram": 8192,
        "disk": 200,
    }


def _toml(settings: Mapping[str, Table | list[Table]]) -> Iterator[str]:
    for name, section in settings.items():
        tables = section if isinstance(section, list) else [section]
        heading = f"[[{name}]]" if isinstance(section, list) else f"[{name}]"
        for table in tables:
            yield f"{heading}\n"
            # JSON's strings and numbers are also TOML's.
            yield from (f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            yield "\n"
