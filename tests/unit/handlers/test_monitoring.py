"""A slice's collectors: its bridges tell them, hosts tell of them, the sweep puts them back."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ccfd.model.network import Export, Monitoring
from ccfd.requests.events import Monitoring as Asked
from ccfd.requests.events import SliceUpdate
from tests.harness import Harness
from tests.unit.handlers.test_reconcile_story import Sweep
from tests.unit.handlers.test_slice_update import make

BOTH = {"sflow": "198.51.100.8:6343", "ipfix": "198.51.100.8:4739"}
TOLD = Export(to=Monitoring(**BOTH), sampling=64, polling=20)


async def test_every_bridge_tells_the_collectors_until_they_are_removed(harness: Harness) -> None:
    async with harness.running():
        made = await make(harness, monitoring=BOTH)
        assert made["monitoring"] == BOTH
        assert list(harness.world.exports.values()) == [TOLD] * 3
        one = {"sflow": "[2001:db8::9]:6343"}
        changed = await harness.ask("slice.update", slice="demo", monitoring=one)
        assert changed["result"]["monitoring"] == {**one, "ipfix": None}
        assert {export.to for export in harness.world.exports.values()} == {Monitoring(**one)}
        gone = await harness.ask("slice.update", slice="demo", monitoring=None)
        assert gone["result"]["monitoring"] is None
        assert harness.world.exports == {}


async def test_a_vm_on_a_new_host_brings_a_bridge_that_tells_them(harness: Harness) -> None:
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False, monitoring=BOTH)
        assert harness.world.exports.keys() == {("node", 1)}
        vm = {"name": "a", "host": "h2", "image": "tiny", "flavor": "tiny"}
        await harness.ask("vm.create", slice="demo", **vm)
        assert harness.world.exports == {("node", 1): TOLD, ("h2", 1): TOLD}


async def test_a_host_that_refuses_leaves_the_slice_as_it_was(harness: Harness) -> None:
    async with harness.running():
        await make(harness)

        async def trap(call: str, args: Any) -> None:
            if call == "fabric.change:before" and args.host == "h2":
                raise ValueError("no")

        harness.world.trap = trap
        failed = await harness.ask("slice.update", slice="demo", monitoring=BOTH)
        assert (failed["outcome"], failed["compensated"]) == ("failed", True)
    assert harness.world.exports == {}


async def test_the_sweep_puts_back_whom_a_bridge_tells(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await make(harness, monitoring=BOTH)
        harness.world.exports.pop(("h1", 1))
        harness.world.exports["h2", 1] = Export(to=Monitoring(**BOTH), sampling=1, polling=20)
        done = await sweep.apply()
        assert {one["why"] for one in done["repairs"]} == {
            "it does not tell collectors what it should"
        }
        assert list(harness.world.exports.values()) == [TOLD] * 3
        assert (await sweep.reconciler.plan())["repairs"] == []


async def test_bridges_tell_of_the_collectors(harness: Harness) -> None:
    async with harness.running():
        await make(harness, monitoring=BOTH)
    assert all('"sflow":"198.51.100.8:6343"' in about for about in harness.world.abouts.values())


async def test_ccfds_own_addresses_are_no_collectors(harness: Harness) -> None:
    async with harness.running():
        for ours in ("192.0.2.1:6343", "192.0.2.100:53", "10.0.0.7:1"):
            refused = await harness.ask("slice.create", slice="demo", monitoring={"sflow": ours})
            assert (refused["error"]["code"], refused["compensated"]) == ("invalid_state", True)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("192.0.2.5:6343", "192.0.2.5:6343"),
        ("192.0.2.5:06343", "192.0.2.5:6343"),
        ("[2001:DB8:0::5]:6343", "[2001:db8::5]:6343"),
        ("[::ffff:192.0.2.5]:6343", "192.0.2.5:6343"),
    ],
)
def test_a_collector_is_written_in_its_usual_form(said: str, read: str) -> None:
    assert Asked.model_validate({"sflow": said}).sflow == read


@pytest.mark.parametrize(
    "said",
    [
        *("192.0.2.5", "192.0.2.5:", "192.0.2.5:0", "192.0.2.5:65536", "192.0.2.5:+1", ":6343"),
        *("2001:db8::5:6343", "[192.0.2.5]:6343", "collector.example:6343", "127.0.0.1:6343"),
        *("[::1]:6343", "0.0.0.0:6343", "224.0.0.1:6343", "169.254.1.1:6343", "192.0.2.5:6343 "),
    ],
)
def test_what_is_no_collector_is_refused(said: str) -> None:
    with pytest.raises(ValidationError):
        Asked.model_validate({"sflow": said})


def test_nothing_is_no_monitoring_and_null_is_said_for_all_of_it_only() -> None:
    for said in ({}, {"sflow": None}, {"netflow": "192.0.2.5:2055"}):
        with pytest.raises(ValidationError):
            Asked.model_validate(said)
    assert SliceUpdate.model_validate({"slice": "demo", "monitoring": None}).monitoring is None


async def test_ipfix_is_told_of_what_each_vm_sends_also_of_one_that_comes_later(
    harness: Harness,
) -> None:
    def told() -> list[Export | None]:
        return [port.export for taps in harness.world.guards.values() for port in taps.values()]

    of_vms = replace(TOLD, to=Monitoring(ipfix=BOTH["ipfix"]))
    async with harness.running():
        await make(harness, monitoring=BOTH, controller={"image": "tiny"})
        assert sorted(map(str, told())) == sorted(map(str, [None, of_vms, of_vms]))
        vm = {"name": "late", "host": "h2", "image": "tiny", "flavor": "tiny"}
        assert (await harness.ask("vm.create", slice="demo", **vm))["outcome"] == "succeeded"
        assert told().count(of_vms) == 3
        await harness.ask("slice.update", slice="demo", monitoring={"sflow": BOTH["sflow"]})
        assert set(told()) == {None}


async def test_the_sweep_puts_back_whom_a_guard_tells(harness: Harness) -> None:
    sweep = Sweep(harness)
    async with harness.running():
        await make(harness, monitoring=BOTH)
        taps = harness.world.guards["h1"]
        (name,) = taps
        taps[name] = replace(taps[name], export=None)
        done = await sweep.apply()
        assert [one["why"] for one in done["repairs"]] == [
            f"port {name} does not tell collectors what it should"
        ]
        assert harness.world.guards["h1"][name].export is not None
