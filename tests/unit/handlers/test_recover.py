"""A lost database is made again from what hosts hold; what does not fit is left out."""

import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from ccfd.handlers.layout import Layout
from ccfd.handlers.recover_told import gather
from ccfd.handlers.slice_events import VNI_POOL
from ccfd.ipam import pools
from ccfd.settings import Network, Slices
from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.harness import lab_settings
from tests.lost import NOTHING_DIFFERS, Lost, two
from tests.unit.handlers.test_slice_story import VM

NEW_KEY = "its own SSH key is new: VMs that are there let in the old one, which is lost"


@pytest.fixture
async def lost(empty_database: Path, tmp_path: Path) -> AsyncIterator[Lost]:
    numbers = count()

    async def empty() -> str:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(empty_database, path)
        return f"sqlite+aiosqlite:///{path}"

    made = Lost(empty)
    await made.fresh()
    yield made
    await made.close()


async def test_all_that_hosts_hold_is_made_again(lost: Lost) -> None:
    told = {"description": 'a "quoted" & <é>\n', "project": "p", "user": "u"}
    keys = ["ssh-ed25519 AAAA one", "ssh-rsa BBBB two"]
    sized = {"name": "sized", "cpu": 2, "ram": 256, "disk": 3, "image": "tiny", "dhcp": False}
    sized |= {"bandwidth": 7}
    await lost.make(
        two("one", **told, ssh_keys=keys, expires_in=100_000),
        {"slice": "gone", "ipcount": 8},
        two("two", ipcount=8, dhcp=False),
        {"slice": "three", "ipcount": 8, "vms": [sized]},
        {"slice": "empty", "ipcount": 16},
        two("led", controller={"image": "tiny"}),
        two(
            "own",
            controller={"address": "198.51.100.9"},
            monitoring={"ipfix": "198.51.100.8:4739"},
        ),
    )
    async with lost.running():
        await lost.harness.ask("slice.delete", slice="gone")
    before = await lost.held()
    assert (await lost.differences()) == NOTHING_DIFFERS

    await lost.fresh()
    planned = await lost.recovery().plan()
    assert (await lost.held())[1]["slices"]["items"] == [], "a plan changes nothing"
    done = await lost.apply()
    assert done == planned
    assert {one["slice"]: len(one["vms"]) for one in done["slices"]} == {
        "one": 2,
        "two": 2,
        "three": 1,
        "empty": 0,
        "led": 3,
        "own": 2,
    }
    assert done["left_out"] == done["known"] == done["disks"] == []
    assert await lost.held() == before
    assert (await lost.differences()) == NOTHING_DIFFERS

    again = await lost.apply()
    assert (again["slices"], again["known"]) == (
        [],
        ["empty", "led", "one", "own", "three", "two"],
    )
    assert await lost.held() == before


async def test_a_slice_has_a_new_key_which_only_new_vms_let_in(lost: Lost) -> None:
    given: dict[str, tuple[str, ...]] = {}

    async def watch(call: str, args: Any) -> None:
        if call == "disks.make:after":
            given[args.hostname] = args.ssh_keys

    lost.world.trap = watch
    await lost.make(two("one", ssh_keys=["ssh-ed25519 AAAA mine"]))
    old = given["aone"]
    await lost.fresh()
    done = await lost.apply()
    assert done["slices"][0]["notes"] == [NEW_KEY]
    async with lost.running():
        await lost.harness.ask("vm.create", slice="one", name="c", **VM)
    assert given["c"][0] == old[0] == "ssh-ed25519 AAAA mine"
    assert given["c"][1] != old[1]
    assert given["c"][1].endswith(" ccf-one")
    assert (await lost.differences()) == NOTHING_DIFFERS

    await lost.fresh(slices=Slices())
    assert (await lost.apply())["slices"][0]["notes"] == []


async def test_what_its_vms_were_doing_and_their_snapshots_are_known_again(lost: Lost) -> None:
    await lost.make(two("one"))
    async with lost.running():
        first, second = await lost.harness.database.run(lambda tx: tx.all(tables.vm.select()))
        for kind, vm, more in (
            ("vm.snapshot_create", first, {"snapshot": "b"}),
            ("vm.snapshot_create", first, {"snapshot": "a"}),
            ("vm.stop", first, {}),
            ("vm.suspend", second, {}),
        ):
            done = await lost.harness.ask(kind, vm=vm.id, **more)
            assert done["outcome"] == "succeeded", done
    before = await lost.held()
    await lost.fresh()
    await lost.apply()
    assert await lost.held() == before
    assert (await lost.differences()) == NOTHING_DIFFERS


async def test_what_is_made_again_can_grow_and_go(lost: Lost) -> None:
    await lost.make(two("one"), two("two"))
    await lost.fresh()
    await lost.apply()
    async with lost.running():
        more = await lost.harness.ask("vm.create", slice="one", name="c", **VM)
        assert more["result"]["ip"] == "10.0.0.4"
        other = await lost.harness.ask("slice.create", slice="three", gateway=False)
        assert (other["result"]["vni"], other["result"]["subnet"]) == (3, "10.0.0.129/26")
        for name in ("one", "two", "three"):
            gone = await lost.harness.ask("slice.delete", slice=name)
            assert gone["outcome"] == "succeeded", gone
    assert lost.world.leftovers() == {}
    assert set((await lost.harness.claims()).values()) == {0}


SPEC = st.fixed_dictionaries(
    {
        "ipcount": st.sampled_from((8, 16, 32, 64)),
        "vms": st.lists(st.just(VM), max_size=2),
        "dhcp": st.booleans(),
        "description": st.text(max_size=20).filter(lambda text: "\0" not in text),
    }
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(specs=st.lists(st.tuples(SPEC, st.booleans()), min_size=1, max_size=4))
async def test_any_history_is_made_again(
    lost: Lost, specs: list[tuple[dict[str, Any], bool]]
) -> None:
    await lost.fresh()
    await lost.make(*({"slice": f"s{n}", **spec} for n, (spec, _) in enumerate(specs)))
    async with lost.running():
        for number, (_, deleted) in enumerate(specs):
            if deleted:
                await lost.harness.ask("slice.delete", slice=f"s{number}")
    before = await lost.held()
    await lost.fresh()
    assert await lost.left_out() == {}
    assert await lost.held() == before
    assert (await lost.differences()) == NOTHING_DIFFERS
    async with lost.running():
        for number, (_, deleted) in enumerate(specs):
            if not deleted:
                await lost.harness.ask("slice.delete", slice=f"s{number}")
    assert lost.world.leftovers() == {}


async def test_a_story_that_does_not_fit_leaves_its_slice_out_and_no_other(lost: Lost) -> None:
    await lost.make(*(two(name) for name in ("dumb", "young", "twice", "well")))
    lost.retell("adumb", lambda about: about.pop("disk"))
    lost.retell("ayoung", lambda about: about.update(ip="10.0.3.2"))
    at, machine = lost.domain("atwice")
    lost.world.domains["h2" if at[0] == "h1" else "h1", machine.vm] = machine
    await lost.fresh()
    left_out = await lost.left_out()
    assert set(left_out) == {"dumb", "young", "twice"}
    assert "disk: Field required" in left_out["dumb"]
    assert "10.0.3.2 is no address for a VM of young, which has 10.0.0.64/26" in left_out["young"]
    assert f"id {machine.vm} is that of several VMs" in left_out["twice"]
    rows, _ = await lost.held()
    assert [row["name"] for row in rows["slices"]] == ["well"]
    assert [row["owner"] for row in rows["subnets"]] == ["well"]


async def test_slices_that_cannot_both_be_are_both_left_out(lost: Lost) -> None:
    await lost.make(two("one"), two("two"), two("three"))
    lost.retell_bridges(2, lambda about: about.update(address="10.0.0.1/29"))
    await lost.fresh()
    left_out = await lost.left_out()
    assert left_out["one"] == "10.0.0.0/26 overlaps with two (10.0.0.0/29)"
    assert left_out["two"] == "10.0.0.0/29 overlaps with one (10.0.0.0/26)"
    assert set(left_out) == {"one", "two"}


async def test_bridges_that_do_not_agree_are_not_believed(lost: Lost) -> None:
    await lost.make(two("one"))
    world = lost.world
    about = json.loads(world.abouts["h1", 1])
    world.bridges["h1", 9], world.owners["h1", 9] = {}, "one"
    world.abouts["h1", 9] = json.dumps({**about, "vni": 9})
    await lost.fresh()
    assert await lost.left_out() == {
        "one": "its bridges do not agree: VNI 1 with 10.0.0.1/26, VNI 9 with 10.0.0.1/26"
    }


async def test_one_bridge_is_enough(lost: Lost) -> None:
    await lost.make(two("one"))
    before = await lost.held()
    del lost.world.abouts["node", 1], lost.world.abouts["h1", 1]
    await lost.fresh()
    assert await lost.left_out() == {}
    assert await lost.held() == before
    repairs = (await lost.differences())["repairs"]
    assert [(one["kind"], one["host"]) for one in repairs] == [("bridge", "node"), ("bridge", "h1")]
    lost.world.abouts.clear()
    await lost.fresh()
    assert "an older release made it" in (await lost.left_out())["one"]


async def test_without_a_bridge_a_slice_is_only_named(lost: Lost) -> None:
    await lost.make(two("one"))
    for things in (lost.world.bridges, lost.world.owners, lost.world.abouts):
        things.clear()
    await lost.fresh()
    left_out = await lost.left_out()
    assert "no bridge of it was seen" in left_out["one"]


async def test_settings_that_have_no_place_for_a_slice_leave_it_out(lost: Lost) -> None:
    await lost.make(two("one"))
    elsewhere = (Network(cidr="10.9.0.0/16", type=1),)
    await lost.fresh(network=elsewhere)
    assert await lost.left_out() == {"one": "no [[network]] of type 1 holds the subnet 10.0.0.0/26"}
    await lost.fresh(slices=Slices(vni=(100, 200)))
    assert await lost.left_out() == {"one": "VNI 1 is not in [slices] vni"}
    hosts = lab_settings("sqlite+aiosqlite://").host[:1]
    await lost.fresh(host=hosts)
    lost.look.unseen.add("h2")
    left_out = await lost.left_out()
    assert left_out["one"].endswith("leads to a host that is no [[host]] of the settings")


async def test_what_the_database_has_is_never_changed(lost: Lost) -> None:
    await lost.make(two("one"), two("two"), {"slice": "three"})
    await lost.fresh()
    async with lost.running():
        await lost.harness.ask("subnet.create", owner="new")
        await lost.harness.ask("subnet.create", owner="three")
    before = await lost.held()
    left_out = await lost.left_out()
    assert left_out == {
        "one": "the block of 64 addresses has 10.0.0.0/26 of new in it",
        "two": "the block of 64 addresses has 10.0.0.64/26 of three in it",
        "three": "three has the reserved subnet 10.0.0.65/26",
    }
    assert await lost.held() == before


async def test_a_vni_that_another_has_is_in_the_way(lost: Lost) -> None:
    await lost.make(two("one"))
    await lost.fresh()
    await lost.harness.database.run(lambda tx: pools.claim(VNI_POOL, 1, "x", tx))
    assert await lost.left_out() == {"one": "VNI 1 is x's in the database"}
    assert (await lost.held())[0]["subnets"] == [], "nothing of it remains"


async def test_an_address_that_was_given_out_meanwhile_is_in_the_way(lost: Lost) -> None:
    await lost.make(two("one"))
    await lost.fresh()
    lost.look.unseen.add("h2")
    await lost.apply()
    async with lost.running():
        made = await lost.harness.ask("vm.create", slice="one", host="h1", name="c", **VM)
    lost.look.unseen = {"h1"}
    assert await lost.left_out() == {"one": f"the address 10.0.0.3 is {made['result']['vm']}'s"}


async def test_a_vm_that_is_in_another_slice_is_in_the_way(lost: Lost) -> None:
    await lost.make(two("one"))

    async def spoil(tx: Transaction) -> None:
        await tx.execute(update(tables.vm).values(slice="other"))

    await lost.harness.database.run(spoil)
    assert (await lost.left_out())["one"].endswith("in slice other")


async def test_hosts_that_do_not_answer_are_told_and_their_vms_come_later(lost: Lost) -> None:
    await lost.make(two("one"), {"slice": "at-node"})
    before = await lost.held()
    await lost.fresh()
    lost.look.unseen |= {"h2", "switch of h2"}
    done = await lost.apply()
    assert set(done["unseen"]) == {"h2", "switch of h2"}
    (one,) = [found for found in done["slices"] if found["slice"] == "one"]
    assert [vm["host"] for vm in one["vms"]] == ["h1"]
    note, about_key = one["notes"]
    assert note.startswith("it may have VMs on h2, which did not answer")
    assert about_key == NEW_KEY
    (other,) = [found for found in done["slices"] if found["slice"] == "at-node"]
    assert other["notes"] == ["its own SSH key is new"], (
        "the node's bridge has no tunnel to that host"
    )

    lost.look.unseen.clear()
    done = await lost.apply()
    assert [(found["slice"], found["outcome"]) for found in done["slices"]] == [
        ("one", "completed")
    ]
    assert done["slices"][0]["notes"] == []
    assert await lost.held() == before
    assert (await lost.differences()) == NOTHING_DIFFERS


async def test_a_slice_that_a_request_is_at_work_on_is_left_out(lost: Lost) -> None:
    await lost.make(two("one"), two("two"))
    await lost.fresh()
    await lost.harness.send("subnet.create_success", owner="one")
    left_out = await lost.left_out()
    assert set(left_out) == {"one"}
    assert "a request for it is at work" in left_out["one"]


async def test_a_slice_that_goes_stays_as_it_is(lost: Lost) -> None:
    await lost.make(two("one"))
    gone, _ = lost.domain("aone")

    async def spoil(tx: Transaction) -> None:
        await tx.execute(update(tables.slices).values(state="deleting"))

    await lost.harness.database.run(spoil)
    assert (await lost.left_out())["one"].startswith("the database has it as deleting")
    assert gone in lost.world.domains


@pytest.mark.parametrize(
    ("state", "reason", "made"),
    [
        ("paused", "", "paused"),
        ("stopping", "", "running"),
        ("shutoff", "shutdown", "shutoff"),
        ("shutoff", "unknown", "running"),
        ("shutoff", "crashed", "crashed"),
    ],
)
async def test_a_vms_state_is_what_is_seen_unless_its_run_was_interrupted(
    lost: Lost, state: str, reason: str, made: str
) -> None:
    await lost.make({"slice": "one", "vms": [VM]})
    present, _ = await lost.look.look()
    ((host, seen),) = [(host, seen) for host, seen in present.hosts.items() if seen.domains]
    off = replace(seen, domains=(replace(seen.domains[0], state=state, reason=reason),))
    (told,) = gather(Layout(lost.settings), replace(present, hosts={**present.hosts, host: off}))
    assert list(told.states.values()) == [made]
    assert len(told.notes) == (reason == "unknown")


async def test_disks_without_a_domain_and_slices_out_of_time_are_told(lost: Lost) -> None:
    await lost.make(two("one"))
    at, _ = lost.domain("aone")
    del lost.world.domains[at], lost.world.definitions[at]
    long_ago = "2020-01-01T00:00:00Z"
    lost.retell_bridges(1, lambda about: about.update(expires_at=long_ago))
    await lost.fresh()
    done = await lost.apply()
    assert done["disks"] == [{"vm": at[1], "host": at[0]}]
    assert done["slices"][0]["notes"] == [
        f"there are ports, and no domains, of the VMs {at[1]}",
        NEW_KEY,
        "its time was over at 2020-01-01T00:00:00.000Z: ccfd deletes it",
    ]


async def test_a_host_that_has_shrunk_keeps_what_is_on_it(lost: Lost) -> None:
    await lost.make(two("one"))
    await lost.fresh()
    async with lost.harness.database.connection() as connection:
        limits = {f"{size}_limit": 0 for size in ("cpu", "ram", "disk")}
        await connection.execute(update(tables.host).values(**limits))
        await connection.commit()
    assert await lost.left_out() == {}
    rows, _ = await lost.held()
    assert [(row["ram_used"], row["ram_limit"]) for row in rows["hosts"]] == [(128, 128)] * 2


async def test_the_address_outside_is_taken_again(lost: Lost) -> None:
    await lost.fresh()
    async with lost.running():
        made = await lost.harness.ask("slice.create", slice="one", vms=[VM])
    await lost.fresh()
    done = await lost.apply()
    assert [one["slice"] for one in done["slices"]] == ["one"]
    assert (await lost.differences())["repairs"] == []
    async with lost.running():
        other = await lost.harness.ask("slice.create", slice="two")
    outside = [asked["result"]["gateway"]["outside"] for asked in (made, other)]
    assert outside == ["198.51.100.10", "198.51.100.11"]
