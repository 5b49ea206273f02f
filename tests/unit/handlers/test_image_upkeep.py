"""Base images that nobody uses go from hosts, and no disk is left without its own."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from ccfd.handlers.image_upkeep import LINGERS, ImageUpkeep
from ccfd.handlers.unused_images import OnHost, Verdict, judge
from ccfd.model.vm import Image, ImageOnHost
from ccfd.store import tables
from tests.harness import Harness
from tests.twins import TINY, ImagesTwin
from tests.unit.handlers.test_slice_story import VM

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)
C = TINY.checksum


def decide(
    *, marked: bool, old: OnHost | None = None, used: bool = False, never: bool = False
) -> Verdict:
    return judge(
        {C: marked},
        [] if old is None else [old],
        {C} if used else set(),
        NOW,
        unused_for=None if never else WEEK,
        unmarked_for=HOUR,
    )


@pytest.mark.parametrize(
    ("old", "marked", "known", "goes"),
    [
        (None, True, OnHost(C, NOW, None), ""),
        (None, False, OnHost(C, NOW, NOW), ""),
        (OnHost(C, NOW - WEEK, None), True, OnHost(C, NOW - WEEK, None), "retired"),
        (OnHost(C, NOW - HOUR, None), True, OnHost(C, NOW - HOUR, None), ""),
        (OnHost(C, NOW - WEEK, None), False, OnHost(C, NOW - WEEK, NOW), ""),
        (OnHost(C, NOW - WEEK, NOW - HOUR), False, OnHost(C, NOW - WEEK, NOW - HOUR), "removed"),
        # What was sent again has had a use.
        (OnHost(C, NOW - HOUR, NOW - HOUR), True, OnHost(C, NOW - HOUR, None), ""),
        # A use ended a moment ago: whoever had it may want it again.
        (OnHost(C, None, NOW - WEEK), False, OnHost(C, NOW, NOW - WEEK), ""),
    ],
)
def test_an_image_without_use_goes_in_two_strides(
    old: OnHost | None, marked: bool, known: OnHost, goes: str
) -> None:
    verdict = decide(marked=marked, old=old)
    assert verdict.known == (known,)
    assert (verdict.retired, verdict.removed) == (
        (C,) if goes == "retired" else (),
        (C,) if goes == "removed" else (),
    )


@pytest.mark.parametrize("marked", [True, False])
def test_what_a_vm_has_stays(marked: bool) -> None:
    old = OnHost(C, NOW - WEEK, None if marked else NOW - WEEK)
    verdict = decide(marked=marked, old=old, used=True)
    assert (verdict.retired, verdict.removed) == ((), ())
    assert verdict.known[0].unused_since is None


@pytest.mark.parametrize("marked", [True, False])
def test_nothing_goes_where_the_settings_say_so(marked: bool) -> None:
    verdict = decide(marked=marked, old=OnHost(C, NOW - WEEK, NOW - WEEK), never=True)
    assert (verdict.retired, verdict.removed) == ((), ())


class Upkeep(ImageUpkeep):
    """One over twins, whose time a test sets."""

    def __init__(self, harness: Harness) -> None:
        self.copies_pruned: list[float] = []
        self.harness = harness
        self.leads = True
        images = ImagesTwin(harness.world)
        super().__init__(harness.settings, harness.database, images, self, lambda: self.leads)

    async def prune(self, unused_for: float) -> None:
        self.copies_pruned.append(unused_for)

    async def after(self, seconds: float) -> None:
        """Let time pass, and look."""
        now = self.harness.database.clock() + timedelta(seconds=seconds)
        self.harness.database.clock = lambda: now
        await self.round()

    async def rows(self) -> dict[tuple[str, str], tuple[bool, bool]]:
        async with self.harness.database.read() as transaction:
            rows = await transaction.all(select(tables.host_image))
        return {
            (row.host, row.checksum): (row.unused_since is not None, row.unmarked_since is None)
            for row in rows
        }


@pytest.fixture
def upkeep(harness: Harness) -> Upkeep:
    return Upkeep(harness)


async def fetch(harness: Harness, image: Image = TINY) -> None:
    await ImagesTwin(harness.world).fetch(ImageOnHost(host="h1", image=image))


async def test_the_database_knows_which_hosts_have_which_images(
    harness: Harness, upkeep: Upkeep
) -> None:
    await fetch(harness)
    harness.world.unmarked.add(("h2", "9" * 64))
    await upkeep.round()
    assert await upkeep.rows() == {("h1", C): (True, True), ("h2", "9" * 64): (True, False)}
    harness.world.unmarked.clear()
    await upkeep.round()
    assert await upkeep.rows() == {("h1", C): (True, True)}


async def test_an_image_goes_after_its_last_vm(harness: Harness, upkeep: Upkeep) -> None:
    week = harness.settings.images.unused_after
    async with harness.running():
        made = await harness.ask(
            "slice.create", slice="demo", gateway=False, vms=[{**VM, "host": "h1"}]
        )
        await upkeep.after(0)
        await upkeep.after(2 * week)
        assert await upkeep.rows() == {("h1", C): (False, True)}
        await harness.ask("vm.delete", vm=made["result"]["vms"][0]["vm"])
        await upkeep.after(0)
        await upkeep.after(week - 1)
        assert harness.world.images == {("h1", C)}
        await upkeep.after(2)
        assert (harness.world.images, harness.world.unmarked) == (set(), {("h1", C)})
        await upkeep.after(0)
        await upkeep.after(LINGERS - 1)
        assert harness.world.unmarked == {("h1", C)}
        await upkeep.after(2)
        assert harness.world.unmarked == set()
        await upkeep.after(0)
        assert await upkeep.rows() == {}
    assert set(upkeep.copies_pruned) == {week}


async def test_an_image_that_a_disk_depends_on_stays(harness: Harness, upkeep: Upkeep) -> None:
    await fetch(harness)
    harness.world.disks["h1", "of nobody"] = C
    await upkeep.after(0)
    await upkeep.after(harness.settings.images.unused_after)
    assert harness.world.images == {("h1", C)}
    assert await upkeep.rows() == {("h1", C): (False, True)}


async def test_another_daemon_leaves_hosts_to_the_leader(harness: Harness, upkeep: Upkeep) -> None:
    await fetch(harness)
    upkeep.leads = False
    await upkeep.round()
    assert await upkeep.rows() == {}
    assert upkeep.copies_pruned


async def test_an_image_that_goes_before_its_disk_is_made_is_fetched_again(
    harness: Harness,
) -> None:
    async def take_away(call: str, _args: object) -> None:
        if call == "images.fetch:after" and harness.world.trap is take_away:
            harness.world.images.clear()
            harness.world.trap = leave

    leave, harness.world.trap = harness.world.trap, take_away
    async with harness.running():
        made = await harness.ask(
            "slice.create", slice="demo", gateway=False, vms=[{**VM, "host": "h1"}]
        )
    assert made["outcome"] == "succeeded"
    assert harness.world.images == {("h1", C)}
