"""A slice's document tells whether all its switches are connected to its controller."""

import asyncio
from typing import Any

from ccfd.documents import COLLECTIONS
from ccfd.handlers.controller_watch import ControllerWatch
from ccfd.model import names
from ccfd.network.mirror import WatchedBridge, WatchedController
from ccfd.network.monitor import News
from tests.harness import AMPLE, Harness
from tests.unit.handlers.test_slice_story import VM

OWN = {"address": "203.0.113.9", "port": 6653}


class Switches:
    """Bridges of one slice, by place: whether each controller is connected."""

    def __init__(self, vni: int) -> None:
        self._name = names.bridge(vni)
        self.seen: dict[str, list[bool]] = {}
        self.lost: set[str] = set()

    def bridge(self, host: str, name: str) -> WatchedBridge | None:
        if host in self.lost or host not in self.seen or name != self._name:
            return None
        return WatchedBridge(
            name=name,
            slice="demo",
            vni=None,
            datapath_id="",
            datapath_type="",
            fail_mode=None,
            controllers=tuple(
                WatchedController(target="tcp:203.0.113.9:6653", connected=one)
                for one in self.seen[host]
            ),
        )

    def problem(self, host: str) -> str | None:
        return "it is silent" if host in self.lost else None


async def demo(harness: Harness, **more: Any) -> int:
    vms = [{"name": "a", **VM, "host": "h1"}]
    made = await harness.ask("slice.create", slice="demo", gateway=False, vms=vms, **more)
    vni: int = made["result"]["vni"]
    return vni


async def told(harness: Harness) -> Any:
    async with harness.database.read() as transaction:
        return (await COLLECTIONS["slices"].one("demo", transaction))["controller_connected"]


async def test_it_is_connected_when_all_its_switches_are(harness: Harness) -> None:
    async with harness.running():
        vni = await demo(harness, controller=OWN)
        assert await told(harness) is False
        switches = Switches(vni)
        watch = ControllerWatch(harness.settings, harness.database, switches)
        for seen, lost, connected in (
            ({"node": [True], "h1": [False]}, set(), False),
            ({"node": [True], "h1": [True]}, set(), True),
            # A bridge that has just been made dials in a moment.
            ({"node": [True], "h1": [True], "h2": [False]}, set(), False),
            ({"node": [True], "h1": [True], "h2": []}, set(), False),
            ({"node": [True], "h1": [True]}, {"h2"}, True),
            ({"node": [True], "h1": [True]}, {"h1"}, False),
            ({"node": [True], "h1": [True]}, set(), True),
            ({"node": [True], "h1": [True]}, {"node"}, False),
        ):
            switches.seen, switches.lost = seen, lost
            await watch.look({vni})
            assert await told(harness) is connected, (seen, lost)


async def test_without_a_controller_there_is_nothing_to_tell(harness: Harness) -> None:
    async with harness.running():
        vni = await demo(harness, controller=OWN)
        switches = Switches(vni)
        watch = ControllerWatch(harness.settings, harness.database, switches)
        switches.seen = {"node": [True], "h1": [True]}
        await watch.look(None)
        assert await told(harness) is True
        await harness.ask("slice.update", slice="demo", controller=None)
        assert await told(harness) is None
        switches.seen = {"node": [], "h1": []}
        await watch.look({vni})
        # The next one is not taken for the one before.
        await harness.ask("slice.update", slice="demo", controller=OWN)
        assert await told(harness) is False


async def test_news_are_followed_as_they_come(harness: Harness) -> None:
    async with harness.running():
        vni = await demo(harness, controller=OWN)
        switches = Switches(vni)
        watch = ControllerWatch(harness.settings, harness.database, switches, settle=0)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            for seen, news in (
                ([True], News(what="heard", hosts=frozenset({"node"}))),
                (
                    [False],
                    News(
                        what="changed",
                        hosts=frozenset({"h1"}),
                        bridges=frozenset({names.bridge(vni), names.bridge(0), "ccf-guard"}),
                    ),
                ),
            ):
                switches.seen = {"node": seen, "h1": seen}
                watch.hear(news)
                async with asyncio.timeout(AMPLE):
                    while await told(harness) is not seen[0]:
                        await asyncio.sleep(0.002)
            watching.cancel()
