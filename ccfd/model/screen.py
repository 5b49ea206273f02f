"""Where a VM's screen can be reached: what the driver finds and the relay connects to."""

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalScreen:
    """A UNIX socket that is connected to the VM's VNC server; who takes the value closes it."""

    connection: socket.socket


@dataclass(frozen=True, slots=True)
class TlsScreen:
    """A VNC server that speaks TLS; `host` is the name or address that its certificate proves."""

    host: str
    port: int


Screen = LocalScreen | TlsScreen
