"""The fixtures of the unit tier: a fresh embedded database, twins for drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import Harness, template


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database that tests copy."""
    return template(tmp_path_factory.mktemp("template"))


@pytest.fixture
async def harness(empty_database: Path, tmp_path: Path) -> AsyncIterator[Harness]:
    """Everything of ccfd but its borders, over twins."""
    async with Harness.opened(tmp_path, empty_database) as opened:
        yield opened
