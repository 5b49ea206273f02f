"""What one statement of PostgreSQL does is what SQLite's many do; and what shares a commit."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from ccfd import settings
from ccfd.errors import Refused
from ccfd.ipam import Ipam, networks
from ccfd.settings import Network
from ccfd.store import migrate
from ccfd.store.database import Database
from tests.service.test_ipam import let_expire

NETWORKS = (
    Network(cidr="10.0.0.0/24", type=1),
    Network(cidr="10.0.4.0/23", type=1),
    Network(cidr="10.1.0.0/25", type=1, island="other"),
    Network(cidr="172.16.0.5/29", type=0),
)
OWNERS = [f"o{number}" for number in range(24)]
STEPS = 400


async def opened(url: str) -> Database:
    database = Database(settings.Database(url=url))
    await migrate.upgrade(database)
    await database.run(lambda tx: networks.import_all(NETWORKS, tx))
    return database


async def told(database: Database, seed: int) -> list[Any]:
    """Play a history, one call after another, and return what was answered."""
    random, ipam = Random(seed), Ipam(database)
    answers: list[Any] = []
    taken: list[str] = []
    for _ in range(STEPS):
        owner, island = random.choice(OWNERS), random.choice(("default", "default", "other"))
        size, which = random.choice((8, 16, 32, 64)), random.random()
        try:
            match random.choice("rrrcccxdaaaafko"):
                case "r":
                    answers.append(await ipam.create_subnet(owner, size, 60, island))
                case "c":
                    answers.append(await ipam.subnet_create_success(owner))
                case "x":
                    await database.run(partial(let_expire, owner))
                case "d":
                    answers.append(await ipam.delete_subnet(owner))
                case "a":
                    taken.append(await ipam.allocate_ip(owner))
                    answers.append(taken[-1])
                case "f" if taken:
                    answers.append(await ipam.release_ip(taken.pop(int(which * len(taken)))))
                case "k":
                    answers.append(await ipam.allocate_ip_for_controller())
                case _:
                    answers.append(await ipam.release_ip_for_controller("172.16.0.5"))
        except Refused as refused:
            answers.append((refused.code, refused.message))
    return answers


@pytest.mark.parametrize("seed", range(3))
async def test_both_databases_answer_the_same(database_url: str, tmp_path: Path, seed: int) -> None:
    answers = []
    for url in (database_url, f"sqlite+aiosqlite:///{tmp_path}/ccfd.db"):
        database = await opened(url)
        answers.append(await told(database, seed))
        await database.close()
    assert answers[0] == answers[1]
    codes = {answer[0] for answer in answers[0] if isinstance(answer, tuple)}
    assert codes >= {"subnet_exists", "subnet_not_found", "network_exhausted"}


async def test_wishes_of_one_owner_in_one_commit_are_told_apart(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await opened(database_url)
    shared: list[list[Any]] = []
    fetch_many = database.fetch_many

    async def watched(statement: str, arguments: Sequence[Sequence[Any]]) -> Any:
        shared.append([wish[:2] for wish in arguments])
        return await fetch_many(statement, arguments)

    monkeypatch.setattr(database, "fetch_many", watched)
    ipam = Ipam(database)
    wishes = [("first", 64), ("demo", 8), ("b", 16), ("demo", 32), ("a", 8), ("demo", 8)]
    got = await asyncio.gather(
        *(ipam.create_subnet(*wish) for wish in wishes), return_exceptions=True
    )
    assert [("a", 8), ("b", 16), ("demo", 8), ("demo", 32), ("demo", 8)] in shared
    assert got[1] == got[5]
    assert [str(one).rsplit("/")[-1] for one in got[:3]] == ["26", "29", "28"]
    assert isinstance(got[3], Refused)
    assert got[3].code == "subnet_exists"
    await database.close()


async def test_no_plan_of_small_tables_reads_large_ones_whole(database_url: str) -> None:
    database = await opened(database_url)
    await Ipam(database).create_subnet("demo")
    await Ipam(database).subnet_create_success("demo")
    await database.close()
    onlooker = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await onlooker.execute("VACUUM ANALYZE")
    before = await whole_reads(onlooker)
    ipam = Ipam(Database(settings.Database(url=database_url)))
    async with ipam:
        for number in range(20):
            await ipam.create_subnet(f"o{number}", 8)
            await ipam.allocate_ip("demo")
    assert await whole_reads(onlooker) == before
    await onlooker.close()


async def whole_reads(onlooker: Any) -> dict[str, int]:
    """Return how often each table of IPAM was read from one end to the other."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with asyncio.timeout(60):
        # A connection tells what it did when it goes.
        while await onlooker.fetchval(f"{others} AND backend_type = 'client backend'") > 1:
            await asyncio.sleep(0.02)
    rows = await onlooker.fetch(
        "SELECT relname, seq_scan FROM pg_stat_user_tables"
        " WHERE relname IN ('subnet', 'block', 'address', 'pool_item')"
    )
    return {row["relname"]: row["seq_scan"] for row in rows}
