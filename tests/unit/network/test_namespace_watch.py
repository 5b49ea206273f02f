"""Which namespaces that go are told of."""

from pathlib import Path

import pytest

from ccfd.network import state
from ccfd.network.namespace_watch import NamespaceWatch
from ccfd.settings import Settings


def test_a_claimed_namespace_that_goes_is_told_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces, mine = tmp_path / "netns", tmp_path / "state"
    monkeypatch.setattr(state, "NETNS", spaces)
    lost: list[str] = []
    settings = Settings.model_validate({"network_node": {"state": str(mine)}})
    watch = NamespaceWatch(settings, lost.append)
    watch.look()  # nobody has made one yet
    spaces.mkdir()
    for name in ("ccf-1", "ccf-2", "ccf-3", "ccf-x", "theirs"):
        (spaces / name).touch()
    for vni in (1, 3):
        state.claim(mine / str(vni), f"slice-{vni}")
    watch.look()
    for name in ("ccf-1", "ccf-2", "ccf-x", "theirs"):
        (spaces / name).unlink()
    watch.look()
    watch.look()
    assert lost == ["ccf-1"]
