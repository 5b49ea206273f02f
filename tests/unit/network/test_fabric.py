"""The switches by their hosts' names, against a database that is made up."""

from pathlib import Path
from typing import Any

import pytest

from ccfd.errors import Refused, Transient
from ccfd.model.network import Bridge
from ccfd.network import Fabric
from ccfd.network.fabric import ATTEMPTS
from ccfd.settings import Settings
from tests.unit.network.fakes import FakeServer

BRIDGE = Bridge(host="h1", slice="demo", vni=1001)


def settings(address: str) -> Settings:
    return Settings.model_validate(
        {"host": [{"name": "h1", "ovsdb": address, "tunnel_ip": "192.0.2.1"}]}
    )


async def test_a_host_that_nobody_configured_is_refused() -> None:
    fabric = Fabric(settings("unix:/none"))
    with pytest.raises(Refused, match="not in the settings") as caught:
        await fabric.make(Bridge(host="h9", slice="demo", vni=1))
    assert caught.value.code == "host_not_found"


async def test_a_change_that_lost_every_race_is_a_passing_error(tmp_path: Path) -> None:
    tried = 0

    def lose(ops: list[dict[str, Any]]) -> list[Any]:
        nonlocal tried
        if ops[0]["op"] == "wait":
            tried += 1
            return [{"error": "timed out", "details": "wait"}, *([None] * (len(ops) - 1))]
        return [{"rows": [{"next_cfg": 7}] if op["table"] == "Open_vSwitch" else []} for op in ops]

    async with FakeServer(tmp_path / "db", lose).running() as server:
        fabric = Fabric(settings(server.address))
        with pytest.raises(Transient, match="does not settle"):
            await fabric.make(BRIDGE)
        await fabric.close()
    assert tried == ATTEMPTS
