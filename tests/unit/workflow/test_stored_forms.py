"""What earlier releases have stored is read, and carried out to its end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ccfd.handlers.reconcile_events import repairs
from ccfd.handlers.registry import handlers
from ccfd.workflow.handler import Handler
from ccfd.workflow.steps import adapter
from tests.harness import Harness, lab_settings
from tests.stored.form import NAME, STORIES, Form, kept, lost, restore, serve_repairs
from tests.twins import World
from tests.unit.handlers.test_slice_story import NOTHING

FORMS = kept()
WRITE = "`python -m tests.stored` stores it; commit the file"


def names() -> list[str]:
    return [f"{path.parent.name}/{path.stem}" for path in FORMS]


@pytest.fixture
async def bare(empty_database: Path, tmp_path: Path) -> AsyncIterator[Harness]:
    """A ccfd on an empty database: not even the settings are imported."""
    path = tmp_path / "ccfd.db"
    path.write_bytes(empty_database.read_bytes())
    harness = Harness(lab_settings(f"sqlite+aiosqlite:///{path}"), World())
    serve_repairs(harness)
    yield harness
    await harness.database.close()


def test_every_event_with_steps_has_a_stored_form() -> None:
    """Of those that the kill matrix has a story of: it fails where one has none."""
    config = lab_settings("sqlite+aiosqlite://")
    known = handlers(config) | repairs(config, lambda _kind: None)
    with_steps = {kind for kind, one in known.items() if type(one).steps is not Handler.steps}
    told = {story.event for story in STORIES}
    assert with_steps & told - {form.event for form in FORMS.values()} == set(), WRITE


@pytest.mark.parametrize("form", FORMS.values(), ids=names())
def test_no_stored_field_is_lost(form: Form) -> None:
    config = lab_settings("sqlite+aiosqlite://")
    handler = (handlers(config) | repairs(config, lambda _kind: None))[form.event]
    stored = form.request
    assert handler.body.model_validate(stored["body"])
    plan = handler.write_plan(handler.read_plan(stored["plan"]))
    assert list(lost(stored["plan"], plan)) == []
    effects = World().effects()
    for step in form.steps.flat:
        assert step.name in effects, "a step's name lives as long as the database"
        effect = effects[step.name]
        again = adapter(effect.takes).dump_python(effect.read(step.args), mode="json")
        assert list(lost(step.args, again)) == [], step.name


def cuts(form: Form) -> list[int]:
    """Choose where its daemon has died: at the first record, and at the last before the end."""
    last = max(0, len(form.journal) - 1)
    if form.terminal["outcome"] == "succeeded":
        return sorted({0, last})
    back = [lines for lines in range(last + 1) if form.at(lines).backward]
    return sorted({*back[:1], *back[-1:]})


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        pytest.param(form, lines, id=f"{name}, {lines} lines")
        for name, form in zip(names(), FORMS.values(), strict=True)
        for lines in cuts(form)
    ],
)
async def test_what_a_release_began_is_ended_by_this_one(
    form: Form, lines: int, bare: Harness
) -> None:
    await restore(form, lines, bare)
    async with bare.running():
        ended = await bare.terminal(NAME)
        assert ended["outcome"] == form.terminal["outcome"], ended
        if "error" in ended:
            assert ended["error"]["code"] == form.terminal["error"]["code"]
            assert ended["compensated"] is True
        if (await bare.claims())["slices"]:
            gone = await bare.ask("slice.delete", slice="demo")
            assert gone["outcome"] == "succeeded", gone
        elif (await bare.claims())["subnets"]:
            await bare.ask("subnet.delete", owner="demo")
    assert bare.world.leftovers() == {}
    assert await bare.claims() == NOTHING
