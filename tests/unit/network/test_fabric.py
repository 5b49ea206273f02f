"""The switches by their hosts' names, against a database that is made up."""

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccfd.errors import Refused, Transient
from ccfd.model.network import Bridge, Port
from ccfd.network import Fabric
from ccfd.network.fabric import ATTEMPTS, RESTART
from ccfd.settings import Settings
from tests.unit.network.fakes import FakeServer

BRIDGE = Bridge(host="h1", slice="demo", vni=1001)


def settings(address: str, datapath: str = "system") -> Settings:
    host = {"name": "h1", "ovsdb": address, "tunnel_ip": "192.0.2.1", "datapath_type": datapath}
    return Settings.model_validate({"host": [host]})


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


async def test_a_bridge_that_does_not_stand_is_made_without_a_look(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def answer(ops: list[dict[str, Any]]) -> list[Any]:
        asked.append([f"{op['op']} {op['table']}" for op in ops])
        rows = {"Open_vSwitch": [{"next_cfg": 7}], "Interface": []}
        return [{"rows": rows[op["table"]]} if op["op"] == "select" else {} for op in ops]

    tunnel = Port(name="t0003e9c0000209", kind="vxlan", remote_ip="192.0.2.9")
    async with FakeServer(tmp_path / "db", answer).running() as server:
        fabric = Fabric(settings(server.address))
        await fabric.make(replace(BRIDGE, ports=(tunnel,)))
        await fabric.close()
    change, errors = asked
    assert change[0] == "wait Bridge"
    assert "insert Bridge" in change
    assert errors == ["select Interface"]


async def test_a_bridge_that_stands_is_looked_at_when_the_database_refuses_another(
    tmp_path: Path,
) -> None:
    refused = False

    def answer(ops: list[dict[str, Any]]) -> list[Any]:
        nonlocal refused
        if ops[0]["op"] == "wait" and not refused:
            refused = True
            return [{"error": "timed out", "details": "wait"}, *([None] * (len(ops) - 1))]
        assert refused
        return twin.answer(ops)

    twin = SwitchTwin(stands=True)
    async with FakeServer(tmp_path / "db", answer).running() as server:
        fabric = Fabric(settings(server.address))
        with pytest.raises(Refused, match="of slice demo; slice other cannot have it"):
            await fabric.make(replace(BRIDGE, slice="other"))
        await fabric.close()


class SwitchTwin:
    """A database with one bridge or none, and how often it was made and removed."""

    def __init__(self, *, stands: bool) -> None:
        self.made = self.removed = 0
        self.stands = stands

    def answer(self, ops: list[dict[str, Any]]) -> list[Any]:
        """Answer one transaction."""
        if any("delete" in op.get("mutations", [[]])[0] for op in ops):
            self.removed, self.stands = self.removed + 1, False
        return [self._answer(op) for op in ops]

    def _answer(self, op: dict[str, Any]) -> dict[str, Any]:
        if op["op"] != "select":
            return {}
        where = op["where"]
        return {"rows": self._rows(op["table"], where[0][2] if where else "")}

    async def make(self, bridge: Bridge, *, bare: bool) -> None:
        """Make it."""
        assert bare
        assert bridge.ports == ()
        self.made, self.stands = self.made + 1, True

    def _rows(self, table: str, name: str) -> list[dict[str, Any]]:
        if table == "Open_vSwitch":
            return [{"next_cfg": 7}]
        if table != "Bridge" or name != "ccf-1001" or not self.stands:
            return []
        nothing: list[Any] = ["set", []]
        bridge = {"_uuid": ["uuid", "b"], "name": "ccf-1001", "datapath_type": "netdev"}
        tags = {"external_ids": ["map", [["ccf-slice", "demo"]]], "other_config": ["map", []]}
        return [
            bridge
            | tags
            | {"ports": nothing, "controller": nothing, "protocols": nothing, "fail_mode": "secure"}
            | {"sflow": nothing, "ipfix": nothing}
        ]


@pytest.mark.parametrize(
    ("datapath", "stands", "seconds", "made_removed"),
    [
        ("netdev", True, (), (0, 1)),
        ("netdev", True, (2 * RESTART,), (1, 2)),
        ("netdev", True, (0, 2 * RESTART), (1, 2)),
        ("netdev", True, (2 * RESTART, 0, 3 * RESTART), (2, 3)),
        ("netdev", False, (), (1, 1)),
        ("system", True, (2 * RESTART,), (0, 1)),
        ("system", False, (), (0, 0)),
    ],
)
async def test_a_userspace_bridge_goes_again_if_its_switch_may_have_been_killed(
    datapath: str,
    stands: bool,
    seconds: tuple[float, ...],
    made_removed: tuple[int, int],
    tmp_path: Path,
) -> None:
    twin = SwitchTwin(stands=stands)
    waits = iter(seconds)

    async def timed(work: Awaitable[Any]) -> tuple[Any, float]:
        return await work, next(waits, 0.0)

    async with FakeServer(tmp_path / "db", twin.answer).running() as server:
        fabric = Fabric(settings(server.address, datapath))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(fabric, "_make", twin.make)
            patched.setattr("ccfd.network.fabric._timed", timed)
            await fabric.remove(BRIDGE)
        await fabric.close()
    assert (twin.made, twin.removed) == made_removed
    assert not twin.stands
