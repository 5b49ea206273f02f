"""Where a VM's screen is to be reached.

A local one through libvirt itself, which hands over a socket that QEMU serves
(virDomainOpenGraphicsFD): no file has to be reachable, and no password or certificate is asked of
whoever may ask libvirt. That needs a socket to libvirtd on this machine. A remote one by TLS on the
host's own address: the port is the running domain's, the name that the certificate must prove that
of libvirt's URI.
"""

import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from ccfd.errors import Refused
from ccfd.model.screen import LocalScreen, Screen, TlsScreen
from ccfd.settings import Host
from ccfd.vt import api, markup, ours
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session


class Screens:
    """The screens of all hosts' VMs."""

    def __init__(self, lanes: Mapping[str, Lane], hosts: Mapping[str, Host]) -> None:
        self._lanes = lanes
        self._hosts = hosts

    async def find(self, host: str, vm: str) -> Screen:
        """Return where the screen of the VM on *host* is.

        Raises `Refused` (`invalid_state`) for a VM that is off, and `CcfdError` where it can't be
        reached.
        """
        lane = self._lanes[host]
        if self._hosts[host].vnc == "unix":
            return LocalScreen(socket.socket(fileno=await lane.call(_open, vm)))
        address = urlsplit(self._hosts[host].libvirt).hostname
        if address is None:
            raise Refused(
                "host_unreachable",
                f'the host {host} has vnc = "tls", but its libvirt URI names no address',
            )
        return TlsScreen(address, await lane.call(_port, vm))


def _running(session: Session, vm: str) -> api.Domain:
    domain = ours.find(session, vm)
    if domain is None or not domain.isActive():
        raise Refused("invalid_state", f"the VM {vm} on host {session.host} is off")
    ours.owner(session, domain)
    return domain


def _open(session: Session, vm: str) -> int:
    number = _running(session, vm).openGraphicsFD(0, api.GRAPHICS_SKIPAUTH)
    try:
        session.check()
    except BaseException:
        os.close(number)  # nobody waits for it any more
        raise
    return number


def _port(session: Session, vm: str) -> int:
    tree = markup.parse(_running(session, vm).XMLDesc())
    graphics = tree.find("devices/graphics[@type='vnc']")
    port = int(graphics.get("port", "-1")) if graphics is not None else -1
    if port <= 0:
        raise Refused(
            "host_unreachable",
            f"the screen of the VM {vm} on host {session.host} is not on the network: the VM was "
            'made while the host had vnc = "unix"',
        )
    return port
