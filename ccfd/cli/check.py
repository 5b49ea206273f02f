"""`ccfd check`: one line for each thing that ccfd needs, and what to do where it is not well."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ccfd import settings
from ccfd.cli.probes import Probe, Warned, opened
from ccfd.errors import CcfdError

WITHIN = 20.0
"""Seconds for one question; a first look at what QEMU can do takes libvirt up to ten."""

State = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a question."""

    what: str
    state: State
    said: str


def check(path: Path) -> tuple[list[Finding], int]:
    """Ask everything; return the findings and the exit status: 1 where something fails."""
    try:
        loaded = settings.load(path)
    except CcfdError as exc:
        return [Finding("configuration", "FAIL", exc.message)], 1
    read = Finding("configuration", "ok", f"{path}; hosts: {len(loaded.host)}")
    findings = [read, *asyncio.run(_ask(loaded))]
    return findings, int(any(finding.state == "FAIL" for finding in findings))


async def _ask(loaded: settings.Settings) -> list[Finding]:
    async with opened(loaded) as probes:
        return await ask_all(probes)


async def ask_all(probes: Sequence[Probe], within: float = WITHIN) -> list[Finding]:
    """Ask all at once, each for *within* seconds at most; return the findings in order."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask_one(probe, within)) for probe in probes]
    return [task.result() for task in asked]


async def _ask_one(probe: Probe, within: float) -> Finding:
    state: State = "FAIL"
    try:
        async with asyncio.timeout(within):
            return Finding(probe.what, "ok", await probe.ask())
    except Warned as exc:
        state, said = "warn", str(exc)
    except CcfdError as exc:
        # The message is for whoever has not run this yet.
        said = exc.message.replace(" (ccfd check)", "").replace(", and ccfd check", "")
    except TimeoutError:
        said = f"no answer in {within:g} s: it hangs, or a firewall drops what is sent there"
    except Exception as exc:
        said = f"{exc!r}; this is a defect of ccfd"
    return Finding(probe.what, state, said)


def table(findings: Sequence[Finding]) -> list[str]:
    """Write one line for each finding."""
    width = max(len(finding.what) for finding in findings)
    return [
        f"{finding.state:4}  {finding.what:{width}}  {' '.join(finding.said.split())}"
        for finding in findings
    ]
