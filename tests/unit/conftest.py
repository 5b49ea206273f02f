"""The fixtures of the unit tier: a fresh embedded database, twins for drivers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import AMPLE, Harness, template

# How long an example takes says more of the machine, which may be busy, than of the code.
settings.register_profile(
    "ccfd",
    parent=settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ccfd")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database that tests copy."""
    return template(tmp_path_factory.mktemp("template"))


@pytest.fixture(autouse=True)
async def _no_thread_outlives_its_loop() -> AsyncIterator[None]:
    """Wait for the embedded database's threads, which answer to the loop of their test.

    One that is still at a statement whose caller was cancelled would fail in the next test.
    """
    yield
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, AMPLE)


@pytest.fixture
async def harness(empty_database: Path, tmp_path: Path) -> AsyncIterator[Harness]:
    """Everything of ccfd but its borders, over twins."""
    async with Harness.opened(tmp_path, empty_database) as opened:
        yield opened
