"""The files that say whose a namespace is."""

from pathlib import Path

import pytest

from ccfd.errors import Refused
from ccfd.network import state


def test_a_claimed_place_is_refused_to_another_slice(tmp_path: Path) -> None:
    place = state.folder(tmp_path / "network", 1001)
    for _ in range(2):
        state.claim(place, "demo")
    assert state.owner(place) == "demo"
    with pytest.raises(Refused, match="belongs to slice demo"):
        state.claim(place, "other")


def test_a_place_goes_when_its_last_file_does(tmp_path: Path) -> None:
    place = tmp_path / "1001"
    state.claim(place, "demo")
    state.write(place / "hosts", "x")
    state.forget(place, ("slice",))
    assert place.exists()
    for _ in range(2):
        state.forget(place, ("hosts", "pid"))
        assert not place.exists()
