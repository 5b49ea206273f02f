"""How does a place get its own Open vSwitch?

The userspace ("netdev") datapath: it needs no kernel module and one process for each place.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl

from tests.lab import namespaces
from tests.lab.layout import NODE, OVSDB_PORT, UNDERLAY_MTU, Layout
from tests.lab.shell import LabError, run

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_DATABASE = "/etc/openvswitch/conf.db"
_SOCKET = "unix:/run/openvswitch/db.sock"
# By which ovs-vswitchd listens for OpenFlow over TLS.
_KEYS = [f"/etc/openvswitch/{name}.pem" for name in ("key", "cert", "cacert")]
_SSL = ["--", "set-ssl", *_KEYS]


def start(layout: Layout, place: str) -> None:
    """Start the place's database and switch, with its underlay address on the bridge br-phy."""
    folder = layout.home(place) / "etc-openvswitch"
    for name in ("cacert.pem", "cert.pem", "key.pem"):
        shutil.copy(layout.home(place) / "pki" / name, folder / name)
    run(["ovsdb-tool", "create", str(folder / "conf.db"), _SCHEMA])
    start_database(layout, place)
    _inside(layout, place, ["ovs-vsctl", "--no-wait", "init", "--", *_names(place), *_SSL])
    start_daemon(layout, place)
    _bridge(layout, place, "br-phy", "und0", f"other_config:hwaddr={_mac(layout, place)}")
    namespaces.ip_batch(
        layout,
        place,
        [
            # Native tunnelling takes its route and source from the kernel's address on br-phy.
            f"address add {layout.tunnel(place)}/24 dev br-phy",
            f"link set br-phy mtu {UNDERLAY_MTU} up",
        ],
    )
    if place == NODE:
        _bridge(layout, place, "br-ext", "ext0")
        namespaces.ip_batch(layout, place, ["link set br-ext up"])


def start_database(layout: Layout, place: str) -> None:
    """Start ovsdb-server, on its UNIX socket and over TLS for clients of the lab's authority."""
    _inside(
        layout,
        place,
        [
            "ovsdb-server",
            _DATABASE,
            f"--remote=p{_SOCKET}",
            f"--remote=pssl:{OVSDB_PORT}:{layout.management(place)}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            "--private-key=/etc/openvswitch/key.pem",
            "--certificate=/etc/openvswitch/cert.pem",
            "--ca-cert=/etc/openvswitch/cacert.pem",
            "--detach",
            "--no-chdir",
            "--pidfile",
            "--log-file",
        ],
    )


def start_daemon(layout: Layout, place: str) -> None:
    """Start ovs-vswitchd."""
    arguments = [_SOCKET, "--detach", "--no-chdir", "--pidfile", "--log-file"]
    _inside(layout, place, ["ovs-vswitchd", *arguments])


def answers(layout: Layout, place: str, timeout: float = 30) -> bool:
    """Tell whether the place's OVSDB answers an echo (RFC 7047, 4.1.11) over TLS."""
    context = ssl.create_default_context(cafile=layout.pki / "cacert.pem")
    context.load_cert_chain(layout.pki / "clientcert.pem", layout.pki / "clientkey.pem")
    address = layout.management(place)
    with (
        socket.create_connection((address, OVSDB_PORT), timeout) as plain,
        context.wrap_socket(plain, server_hostname=address) as secure,
    ):
        secure.sendall(json.dumps({"method": "echo", "params": [], "id": "lab"}).encode())
        reply = b""
        while b"}" not in reply:
            if not (part := secure.recv(4096)):
                return False
            reply += part
    return bool(json.loads(reply)["id"] == "lab")


def _names(place: str) -> list[str]:
    return [
        "set",
        "Open_vSwitch",
        ".",
        f"external_ids:system-id={place}",
        f"external_ids:hostname={place}",
    ]


def _bridge(layout: Layout, place: str, bridge: str, port: str, *settings: str) -> None:
    _inside(
        layout,
        place,
        [
            *("ovs-vsctl", "--timeout=60"),
            *("add-br", bridge, "--", "set", "bridge", bridge),
            *("datapath_type=netdev", "fail_mode=standalone", *settings),
            *("--", "add-port", bridge, port),
        ],
    )
    errors = _inside(layout, place, ["ovs-vsctl", "get", "interface", port, "error"]).strip()
    if errors != "[]":
        raise LabError(f"{place}: the switch does not take {port}: {errors}")


def _mac(layout: Layout, place: str) -> str:
    # Fixed, so that a rebuilt switch keeps its address in the others' ARP tables.
    return f"02:00:00:00:20:{layout.number(place):02x}"


def _inside(layout: Layout, place: str, argv: list[str]) -> str:
    return run(namespaces.inside(layout, place, argv, cwd="/"))
