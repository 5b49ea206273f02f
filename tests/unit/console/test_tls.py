"""The screen of a remote host: TLS with certificates, each side proving itself to the other."""

import ssl
from pathlib import Path

import pytest

from ccfd.console.closing import Closed
from ccfd.console.wire import connect
from ccfd.model.screen import TlsScreen
from ccfd.network.endpoints import tls_context
from ccfd.settings import Tls
from tests.lab.pki import Authority, Identity
from tests.unit.console.conftest import Site, no_tls
from tests.vnc import Vnc

NAME = "127.0.0.1"


def write(folder: Path, name: str, authority: Authority, identity: Identity) -> Tls:
    """Put certificates into files, as the settings name them."""
    for ending, content in (
        ("ca", authority.cert),
        ("cert", identity.cert),
        ("key", identity.key),
    ):
        (folder / f"{name}-{ending}.pem").write_bytes(content)
    return Tls(
        ca=str(folder / f"{name}-ca.pem"),
        cert=str(folder / f"{name}-cert.pem"),
        key=str(folder / f"{name}-key.pem"),
    )


def server(tls: Tls) -> ssl.SSLContext:
    """Be as strict as QEMU with `vnc_tls_x509_verify`."""
    assert tls.ca is not None
    assert tls.cert is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ours(authority: Authority, tmp_path: Path) -> Tls:
    return write(tmp_path, "ours", authority, authority.issue("ccfd"))


@pytest.fixture
def theirs(authority: Authority, tmp_path: Path) -> Tls:
    return write(tmp_path, "theirs", authority, authority.issue("h1", NAME))


async def test_a_viewer_sees_a_remote_screen(site: Site, ours: Tls, theirs: Tls) -> None:
    remote = Vnc(tls=server(theirs))
    site.consoles._tls = lambda: tls_context(ours)  # the site's own knows no certificates
    async with remote.on_tcp() as screen:
        site.screens.vms[site.vm] = screen
        async with site.viewer() as socket:
            await socket.send(bytes(100_000))
            await remote.hears(bytes(100_000))
        await site.without_sessions()
    assert remote.shared == [b"\x01"]


async def test_a_server_that_proves_another_name_is_refused(
    authority: Authority, ours: Tls, tmp_path: Path
) -> None:
    other = write(tmp_path, "other", authority, authority.issue("h2", "127.0.0.9"))
    remote = Vnc(tls=server(other))
    async with remote.on_tcp() as screen:
        with pytest.raises(Closed) as refused:
            await connect(screen(), lambda: tls_context(ours))
    assert refused.value.close.code == 4503
    assert not remote.shared


async def test_a_server_of_another_authority_is_refused(ours: Tls, tmp_path: Path) -> None:
    stranger = Authority()
    remote = Vnc(tls=server(write(tmp_path, "x", stranger, stranger.issue("h1", NAME))))
    async with remote.on_tcp() as screen:
        with pytest.raises(Closed):
            await connect(screen(), lambda: tls_context(ours))
    assert not remote.shared


async def test_without_our_certificate_there_is_no_screen(theirs: Tls, tmp_path: Path) -> None:
    stranger = Authority()
    context = ssl.create_default_context(cafile=theirs.ca)
    nobody = write(tmp_path, "nobody", stranger, stranger.issue("ccfd"))
    assert nobody.cert is not None
    context.load_cert_chain(nobody.cert, nobody.key)
    remote = Vnc(tls=server(theirs))
    async with remote.on_tcp() as screen:
        with pytest.raises(Closed):
            await connect(screen(), lambda: context)
    assert not remote.shared


async def test_a_remote_screen_without_tls_is_refused() -> None:
    """The VM's host has no `vnc_tls`: nothing is shown over the network in the clear."""
    remote = Vnc()
    async with remote.on_tcp() as screen:
        with pytest.raises(Closed) as refused:
            await connect(screen(), no_tls)
    assert refused.value.close.code == 4502
    assert not remote.shared


async def test_a_host_that_is_not_there_is_told() -> None:
    with pytest.raises(Closed) as refused:
        await connect(TlsScreen(NAME, 1), no_tls)
    assert refused.value.close.code == 4503
