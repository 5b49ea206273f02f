"""Tells where an OVSDB server is: `unix:PATH`, `tcp:HOST:PORT` or `ssl:HOST:PORT`."""

import ssl
from dataclasses import dataclass

from ccfd.errors import Refused
from ccfd.settings import Tls


@dataclass(frozen=True, slots=True)
class Unix:
    """A UNIX socket."""

    path: str


@dataclass(frozen=True, slots=True)
class Tcp:
    """An address and port, `tls` or in the clear."""

    host: str
    port: int
    tls: bool


Endpoint = Unix | Tcp


def parse(text: str, what: str = "OVSDB address") -> Endpoint:
    """Read an endpoint; an IPv6 address stands in brackets. Raise `Refused` (`invalid_message`)."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return Unix(rest)
    host, _, port = rest.rpartition(":")
    if scheme in ("tcp", "ssl") and host and port.isdecimal():
        return Tcp(host.removeprefix("[").removesuffix("]"), int(port), scheme == "ssl")
    raise Refused(
        "invalid_message",
        f"{text!r} is no {what}: write unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT",
    )


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that proves who we are and checks who they are, host name or IP included.

    Read anew for each connection, so that renewed certificates are taken up. Raises `Refused`
    (`host_unreachable`) naming what is wrong with the `[tls]` section.
    """
    if tls.ca is None or tls.cert is None or tls.key is None:
        raise Refused(
            "host_unreachable", "an ssl: address needs ca, cert and key in the [tls] section"
        )
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as exc:
        raise Refused(
            "host_unreachable", f"the certificates of the [tls] section cannot be used: {exc}"
        ) from exc
    return context
