"""What `ccfd check` asks of the certificates that screens of remote hosts want to see."""

import asyncio
import ssl
from contextlib import suppress

from ccfd.errors import Refused
from ccfd.network.endpoints import tls_context
from ccfd.settings import Settings, Tls


async def screens(settings: Settings) -> str:
    """See that ccfd's files are there, belong together, and are good for a client today.

    Raises `Refused` that says what to do.
    """
    hosts = ", ".join(host.name for host in settings.host if host.vnc == "tls")
    tls = settings.tls
    if tls.ca is None or tls.cert is None or tls.key is None:
        raise Refused(
            "host_unreachable",
            f'vnc = "tls" of {hosts} needs ca, cert and key in the [tls] section',
        )
    await asyncio.to_thread(_rehearse, tls, tls.ca, tls.cert, tls.key)
    return f"{tls.cert} is good for the screens of {hosts}"


def _rehearse(tls: Tls, ca: str, cert: str, key: str) -> None:
    """Shake hands, in memory, with a server that trusts *ca* as the hosts' QEMU does.

    That the server shows ccfd's certificate as its own is not what is asked: the client takes any.
    """
    client = tls_context(tls)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(ca)
    server.verify_mode = ssl.CERT_REQUIRED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(back, there)
    answers = server.wrap_bio(there, back, server_side=True)
    try:
        for side in (asks, answers, asks, answers):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as exc:
        raise Refused(
            "host_unreachable",
            f"{cert} is no certificate that who trusts {ca} lets in: {exc.verify_message}; have"
            " one made by that authority, for a client, or set [tls]",
        ) from exc
