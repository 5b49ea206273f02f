"""Recordings that are old enough are removed, and nothing else."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ccfd.console.old_recordings import DAY, OldRecordings
from ccfd.settings import Console

NOW = 1_764_000_000.0
OLD = "0a0a0a0a-0000-4000-8000-000000000001"
NEW = "0a0a0a0a-0000-4000-8000-000000000002"


def kept(folder: Path, name: str, days: float) -> Path:
    path = folder / name
    path.write_bytes(b"x")
    os.utime(path, (NOW, NOW - days * DAY))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept(tmp_path, f"{OLD}.screen", 30.1)
    kept(tmp_path, f"{OLD}.cast", 30.1)
    kept(tmp_path, f"{NEW}.screen", 29.9)
    # Somebody else's, whatever their age.
    kept(tmp_path, "notes.screen", 99)
    kept(tmp_path, f"{OLD}.txt", 99)
    kept(tmp_path, f"copy-of-{OLD}.cast", 99)
    return tmp_path


async def look(**settings: object) -> list[str]:
    with capture_logs() as logs:
        await OldRecordings(Console.model_validate(settings), clock=lambda: NOW).look()
    return [line["event"] for line in logs]


async def test_what_is_older_than_its_days_is_removed(folder: Path) -> None:
    told = await look(recordings=folder, recording_days=30)
    assert told == ["old recording removed"] * 2
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{NEW}.screen", "notes.screen", f"{OLD}.txt", f"copy-of-{OLD}.cast"]
    )


async def test_all_are_kept_where_that_is_wanted(folder: Path) -> None:
    assert await look(recordings=folder, recording_days=0) == []
    assert len(list(folder.iterdir())) == 6


async def test_where_nothing_was_ever_recorded_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert await look(recordings=tmp_path / "none") == []


async def test_a_folder_that_cannot_be_read_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert await look(recordings=folder) == ["old recordings not removed"]
