"""A VM's disk comes from Glance: with a real one, on a real host."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccfd.model import names
from tests.ccfd_process import CcfdProcess
from tests.glance.environment import PASSWORD
from tests.glance.servers import PROJECT, USER, Glance, Keystone
from tests.lab import Lab
from tests.lab.shell import wait_until
from tests.portal import Portal


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("glance") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def glance(lab: Lab, tmp_path: Path) -> Iterator[Glance]:
    """Start one where the lab's network node can reach it."""
    for folder in ("keystone", "glance"):
        (tmp_path / folder).mkdir()
    address = lab.layout.root_management
    keystone = Keystone(tmp_path / "keystone", address)
    server = Glance(tmp_path / "glance", keystone, address)
    try:
        for one in (keystone, server):
            one.start()
        for one in (keystone, server):
            one.wait()
        yield server
    finally:
        server.kill()
        keystone.kill()


async def test_a_vm_runs_from_an_image_of_glance(lab: Lab, glance: Glance, tmp_path: Path) -> None:
    content = (lab.layout.images / "tiny.qcow2").read_bytes()
    identity = glance.upload("tiny", content)
    checksum = hashlib.sha512(content).hexdigest()
    environment = {
        "CCFD_IMAGES__DIRECTORY": "",
        "CCFD_IMAGES__GLANCE_URL": glance.url,
        "CCFD_IMAGES__CACHE": str(tmp_path / "cache"),
        "CCFD_KEYSTONE__URL": glance.keystone.url,
        "CCFD_KEYSTONE__USERNAME": USER,
        "CCFD_KEYSTONE__PASSWORD": PASSWORD,
        "CCFD_KEYSTONE__PROJECT": PROJECT,
    }
    with CcfdProcess(lab, environment) as ccfd:
        (image,) = ccfd.get("/v1/images")["items"]
        assert (image["id"], image["checksum"]) == (identity, checksum)
        async with Portal.connected(lab.env["CCF_AMQP_URL"]) as portal:
            vm = {"name": "a", "flavor": "tiny", "image": "tiny"}
            made = await portal.ask("slice.create", slice="demo", gateway=False, vms=[vm])
            assert made["outcome"] == "succeeded", ccfd.tail()
            identifier = made["result"]["vms"][0]["vm"]
            await asyncio.to_thread(
                wait_until, lambda: not lab.guest(identifier, ["true"]), "it", 150
            )
            pool = lab.layout.home("h1") / "lib-libvirt" / "images"
            assert (pool / names.image_volume(checksum)).read_bytes() == content
            assert [path.name for path in (tmp_path / "cache").iterdir()] == [checksum]
            glance.ask("DELETE", f"/{identity}")
            changed = await portal.ask("image.import")
            assert changed["result"] == {"imported": [], "updated": [], "removed": ["tiny"]}
            gone = await portal.ask("slice.delete", slice="demo")
            assert gone["outcome"] == "succeeded", gone
