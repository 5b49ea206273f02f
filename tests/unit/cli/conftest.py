"""A twin of ccfd on a UNIX socket, and ccfctl run beside it in a thread."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from ccfd.cli import ctl
from tests.unit.cli.twin import Twin

Ctl = Callable[..., Awaitable["Done"]]


@dataclass(frozen=True)
class Done:
    """What a run of ccfctl left: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def twin() -> Twin:
    return Twin()


@pytest.fixture
async def socket(twin: Twin, tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "ccfd.sock")
    runner = web.AppRunner(twin.application(), shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    yield path
    await runner.cleanup()


@pytest.fixture
def served(twin: Twin, socket: str, ctl_: Ctl, monkeypatch: pytest.MonkeyPatch) -> Twin:
    """The twin, found by ccfctl without an option."""
    monkeypatch.setenv("CCF_HTTP_SOCKET", socket)
    return twin


@pytest.fixture
def ctl_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Run ccfctl's `main` with arguments."""
    for name in ("CCF_HTTP_URL", "CCF_HTTP_SOCKET", "CCF_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run() -> int:
        try:
            ctl.main()
        except SystemExit as exc:
            return int(exc.code or 0)
        return 0

    async def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["ccfctl", *arguments])
        status = await asyncio.to_thread(run)
        out, err = capsys.readouterr()
        return Done(status, out, err)

    return call
