"""The fixtures of the Glance tier: a private Glance that asks a private Keystone."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ccfd.settings import Keystone as KeystoneSettings
from ccfd.vt.glance import Glance as Client
from ccfd.vt.glance_images import GlanceImages
from ccfd.vt.image_cache import ImageCache
from ccfd.vt.openstack import Http
from ccfd.vt.tokens import KeystoneTokens
from tests.glance.environment import PASSWORD
from tests.glance.servers import PROJECT, USER, Glance, Keystone
from tests.harness import template


@pytest.fixture(scope="session")
def keystone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystone]:
    """Who may."""
    server = Keystone(tmp_path_factory.mktemp("keystone"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def server(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    """Start the Glance beside the Keystone: each takes seconds to come up."""
    started = Glance(tmp_path_factory.mktemp("glance"), keystone)
    try:
        started.start()
        keystone.wait()
        started.wait()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a migrated database that tests copy."""
    return template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def glance(server: Glance) -> Iterator[Glance]:
    """Give a Glance without images."""
    yield server
    server.clear()


@pytest.fixture(scope="session")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a disk of 48 MiB, 3 of them used."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "raw").write_bytes(bytes(range(256)) * (3 << 12))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "disk"]
    subprocess.run(convert, cwd=folder, check=True, timeout=90)
    subprocess.run(["qemu-img", "resize", "-q", "disk", "48M"], cwd=folder, check=True, timeout=90)
    return (folder / "disk").read_bytes()


@pytest.fixture
async def tokens(keystone: Keystone) -> KeystoneTokens:
    """Log in as the user ccfd."""
    config = KeystoneSettings(url=keystone.url, username=USER, password=PASSWORD, project=PROJECT)
    return KeystoneTokens(config, Http("Keystone"))


@pytest.fixture
async def store(
    glance: Glance, tokens: KeystoneTokens, tmp_path: Path
) -> AsyncIterator[GlanceImages]:
    """Open what ccfd has of it."""
    made = GlanceImages(Client(glance.url, tokens, Http("Glance")), ImageCache(tmp_path / "cache"))
    yield made
    await made.close()
