"""The unit file: systemd finds nothing to say about it, and it stays as closed as it was."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "ccfd.service"
EXPOSED_AT_MOST = 30
"""Tenths of what `systemd-analyze security` counts."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy whose program exists on every machine."""
    assert shutil.which("systemd-analyze"), "install the package systemd"
    text, count = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M)
    assert count == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    return copy


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )


def test_systemd_has_nothing_to_say_about_the_unit(unit: Path) -> None:
    # It ends with 0 even for unknown keys: what it prints counts. `no`: what other packages of
    # this machine have wrong with their units is not our business.
    done = analyze("verify", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_mistake_in_the_unit_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("[Install]", "Misspelt=yes\n[Install]"))
    assert "Misspelt" in analyze("verify", "--recursive-errors=no", str(unit)).stdout


def test_the_unit_gives_away_no_more_than_it_did(unit: Path) -> None:
    done = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSED_AT_MOST}", str(unit)
    )
    assert done.returncode == 0, done.stdout


def test_it_runs_the_installed_program_with_the_installed_configuration() -> None:
    assert "\nExecStart=/usr/bin/ccfd run --config /etc/ccfd/ccfd.toml\n" in UNIT.read_text()
