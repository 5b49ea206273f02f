"""The watch over all switches, against a database server that does what the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ccfd.errors import Refused
from ccfd.network import monitor
from ccfd.network.monitor import Monitor, News
from ccfd.settings import Settings
from tests.unit.network import switch_rows as rows
from tests.unit.network.fakes import FakeServer


def settings(server: FakeServer) -> Settings:
    host = {"name": "h1", "ovsdb": server.address, "tunnel_ip": "192.0.2.1"}
    return Settings.model_validate(
        {"network_node": {"ovsdb": server.address, "tunnel_ip": "192.0.2.1"}, "host": [host]}
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeServer]:
    async with FakeServer(tmp_path / "db.sock").running() as server:
        server.rows = rows.demo()
        yield server


class Watch:
    """A monitor that runs, and what it told."""

    def __init__(self, server: FakeServer, probe: float = 5) -> None:
        self.monitor = Monitor(settings(server), probe=probe)
        self.news: list[News] = []
        self.monitor.listen(self.news.append)

    def told(self) -> list[str]:
        return [news.what for news in self.news]


@contextlib.asynccontextmanager
async def watching(server: FakeServer, probe: float = 5) -> AsyncIterator[Watch]:
    """Have a monitor run that has heard the switch."""
    watch = Watch(server, probe)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watch.monitor.run())
        await until(lambda: watch.told()[:1] == ["heard"])
        yield watch
        running.cancel()


@pytest.fixture(autouse=True)
def _no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "FIRST_PAUSE", 0.01)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


async def test_one_connection_serves_all_who_share_a_switch(server: FakeServer) -> None:
    assert Watch(server).monitor.problem("h1") == "not asked yet"
    async with watching(server) as watch:
        assert watch.news[0].hosts == {"h1", "node"}
        assert watch.monitor.problem("h1") is None
        for host in ("h1", "node"):
            assert watch.monitor.bridge(host, "ccf-1001") is not None
            assert len([*watch.monitor.ports(host)]) == 2
        assert len([*watch.monitor.all_ports()]) == 2
        assert server.connections == 1
        with pytest.raises(Refused, match="h9 is not in the settings"):
            watch.monitor.problem("h9")


async def test_changes_are_told_and_counters_are_not(server: FakeServer) -> None:
    vm = {"ccf-slice": "demo", "ccf-vm": "vm-1", "ccf-host": "h1"}
    counted = rows.interface("ccf-tap", received=2000, tags=vm)
    down = rows.interface("ccf-tap", received=2000, tags=vm, link_state="down")
    tunnel = rows.interface("t0003e9ac140002", "vxlan", mac_in_use="02:00:00:00:00:02")
    async with watching(server) as watch:
        server.update({"Interface": {"tap": rows.new(counted, statistics=rows.texts({}))}})
        server.update({"Interface": {"tap": rows.new(down, link_state="up")}})
        server.update({"Interface": {"tun": rows.new(tunnel, mac_in_use="before")}})
        await until(lambda: "restarted" in watch.told())
        assert watch.told()[:3] == ["heard", "changed", "restarted"]
        assert watch.news[1].bridges == {"ccf-1001"}


async def test_a_switch_that_is_lost_is_heard_again(server: FakeServer) -> None:
    async with watching(server) as watch:
        server.hang_up()
        await until(lambda: watch.told() == ["heard", "lost", "heard"])
        assert watch.monitor.bridge("h1", "ccf-1001") is not None


async def test_a_frozen_server_is_noticed(server: FakeServer) -> None:
    async with watching(server, probe=0.05) as watch:
        server.answers_echo = False
        await until(lambda: "lost" in watch.told())
        assert "nothing heard" in (watch.monitor.problem("h1") or "nothing heard")


async def test_of_a_switch_that_is_lost_nothing_is_known(tmp_path: Path) -> None:
    server = FakeServer(tmp_path / "db.sock")
    server.rows = rows.demo()
    async with contextlib.AsyncExitStack() as stack:
        async with server.running():
            watch = await stack.enter_async_context(watching(server))
            server.hang_up()
        await until(lambda: "cannot be reached" in (watch.monitor.problem("h1") or ""))
        assert [*watch.monitor.ports("h1")] == []
        assert watch.monitor.bridge("h1", "ccf-1001") is None


async def test_what_makes_no_sense_ends_the_connection(server: FakeServer) -> None:
    async with watching(server) as watch:
        server.update({"Interface": {"tap": {"new": {"external_ids": "ours"}}}})
        await until(lambda: watch.told() == ["heard", "lost", "heard"])
