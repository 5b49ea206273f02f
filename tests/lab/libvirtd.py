"""How does a host get its own libvirt, answering over TLS?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import libvirt

from tests.lab import cache, daemons, processes
from tests.lab.layout import Layout
from tests.lab.shell import wait_until


def start(layout: Layout, host: str) -> None:
    """Configure and start libvirtd; returns when it answers over TLS."""
    folder = layout.home(host) / "etc-libvirt"
    _write_settings(folder / "libvirtd.conf", _daemon_settings(layout, host))
    _write_settings(folder / "qemu.conf", _qemu_settings(layout, host))
    _place_certificates(layout, host)
    (layout.home(host) / "lib-libvirt" / "images").mkdir(mode=0o711)
    known = cache.qemu_capabilities()
    capabilities = layout.home(host) / "cache-libvirt" / "qemu" / "capabilities"
    if known is not None:
        shutil.copytree(known, capabilities)
    start_daemon(layout, host)
    wait_until(lambda: answers(layout, host), f"libvirt of {host}")
    if known is None:
        cache.keep_qemu_capabilities(capabilities)


def start_daemon(layout: Layout, host: str) -> None:
    """Start libvirtd, and before it virtlogd where that does not run."""
    if not processes.running(layout, host, "virtlogd"):
        logd = ["virtlogd", "-p", "/run/libvirt/virtlogd.pid"]
        daemons.detach(layout, host, logd, log="/var/log/libvirt/virtlogd-output")
        wait_until(
            (layout.home(host) / "run" / "libvirt" / "virtlogd-sock").exists, f"virtlogd of {host}"
        )
    settings = ["-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirt/libvirtd.pid"]
    log = "/var/log/libvirt/output"
    daemons.detach(layout, host, ["libvirtd", "--listen", *settings], log=log)


def answers(layout: Layout, host: str) -> bool:
    """Tell whether the host's libvirt answers over TLS and knows what it can run."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # it prints every error by default
    connection = libvirt.open(layout.libvirt_uri(host))
    try:
        return "qemu" in connection.getCapabilities()
    finally:
        connection.close()


def _daemon_settings(layout: Layout, host: str) -> Mapping[str, object]:
    return {
        "listen_tls": 1,
        "listen_tcp": 0,
        "listen_addr": layout.management(host),
        "ca_file": "/etc/libvirt/pki/cacert.pem",
        "cert_file": "/etc/libvirt/pki/cert.pem",
        "key_file": "/etc/libvirt/pki/key.pem",
        "auth_unix_rw": "none",
        "auth_unix_ro": "none",
        # The machine's own DMI UUID would be the same for all hosts.
        "host_uuid": f"00000000-0000-4000-8000-{layout.number(host):012d}",
        "log_outputs": "2:file:/var/log/libvirt/libvirtd.log",
        "keepalive_interval": 5,
        "keepalive_count": 3,
    }


def _qemu_settings(layout: Layout, host: str) -> Mapping[str, object]:
    return {
        "security_driver": "none",
        "remember_owner": 0,  # its extended attributes would outlive a killed lab
        "namespaces": [],  # QEMU stays in the host's mount namespace, which is private already
        "cgroup_controllers": [],  # all hosts share one cgroup tree: equal names would meet there
        "max_core": 0,
        "vnc_listen": layout.management(host),
        "vnc_tls": 1,
        "vnc_tls_x509_verify": 1,
        "vnc_tls_x509_cert_dir": "/etc/libvirt/pki-vnc",
    }


def _write_settings(path: Path, settings: Mapping[str, object]) -> None:
    # libvirt's own format: like JSON on the right, for whole numbers, strings and lists.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))


def _place_certificates(layout: Layout, host: str) -> None:
    folder = layout.home(host) / "etc-libvirt"
    folder.chmod(0o755)
    shutil.copytree(layout.home(host) / "pki", folder / "pki")
    vnc = folder / "pki-vnc"
    vnc.mkdir()
    # The names that QEMU's tls-creds-x509 looks for; QEMU reads them as its own user.
    names = {
        "cacert.pem": "ca-cert.pem",
        "cert.pem": "server-cert.pem",
        "key.pem": "server-key.pem",
    }
    for ours, qemus in names.items():
        shutil.copy(layout.home(host) / "pki" / ours, vnc / qemus)
        shutil.chown(vnc / qemus, "libvirt-qemu")
