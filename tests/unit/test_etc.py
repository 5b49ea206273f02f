"""The annotated configuration says what the settings say."""

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from ccfd import settings
from ccfd.settings import Section, Settings

FILE = Path(__file__).parents[2] / "etc" / "ccfd.toml"


def uncommented(text: str) -> str:
    """Return the file with its examples made real."""
    return re.sub(r"^# (?=\[\[|[a-z0-9_]+ = )", "", text, flags=re.M)


def sections(model: type[Section], name: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Name every section below *model*, lists of sections included."""
    for key, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield f"{name}{key}", kind
                yield from sections(kind, f"{name}{key}.")


def keys() -> list[tuple[str, str]]:
    nested = dict(sections(Settings))
    return [
        (section, key)
        for section, model in nested.items()
        for key in model.model_fields
        if f"{section}.{key}" not in nested
    ]


def test_as_it_is_it_means_the_defaults() -> None:
    assert settings.load(FILE, {}) == Settings()


def test_every_active_key_shows_its_default() -> None:
    defaults = Settings().model_dump(mode="json")
    active = tomllib.loads(FILE.read_text())
    for section, values in active.items():
        for key, value in values.items():
            assert (section, key, value) == (section, key, defaults[section][key])


@pytest.mark.parametrize(("section", "key"), keys())
def test_every_key_stands_in_it(section: str, key: str) -> None:
    found: object = tomllib.loads(uncommented(FILE.read_text()))
    for name in (*section.split("."), key):
        if isinstance(found, list):
            found = {name: value for item in found for name, value in item.items()}
        assert isinstance(found, dict)
        assert name in found, f"[{section}] {key} is missing in etc/ccfd.toml"
        found = found[name]


def test_its_examples_are_valid(tmp_path: Path) -> None:
    text = uncommented(FILE.read_text()).replace('sha256 = "…"', f'sha256 = "{"0" * 64}"')
    # Of two ways to the same thing, one.
    for other in ("directory = ", "token = "):
        text = re.sub(f"^{other}.*$", "", text, flags=re.M)
    path = tmp_path / "ccfd.toml"
    path.write_text(text)
    loaded = settings.load(path, {})
    assert [network.type for network in loaded.network] == [1, 0, 2]
    assert loaded.host[0].name == "h1"
    assert loaded.http.token[0].role == "portal"
    assert (loaded.images.glance_url, loaded.keystone.url) == (
        "http://127.0.0.1:9292",
        "http://127.0.0.1:5000",
    )


def test_every_key_has_a_comment() -> None:
    lines = FILE.read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"[a-z_]+ = ", line) and "overcommit" not in line:
            assert before.startswith("#"), f"{line} has no comment above it"
