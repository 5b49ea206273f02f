"""The same eight trivial steps on DBOS Transact, for `tests.bench.engine`; prints workflows/s."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib import import_module
from typing import Any

STEPS = 8
WARM_UP = 8


async def measure(url: str, at_once: int, count: int) -> float:
    """Enqueue *count* workflows, run them, and return how many ended in a second."""
    dbos: Any = import_module("dbos")
    dsn = url.replace("+asyncpg", "+psycopg")
    dbos.DBOS(config={"name": "bench", "system_database_url": dsn, "log_level": "ERROR"})

    async def work(number: int) -> int:
        return number

    step = dbos.DBOS.step()(work)

    async def workflow() -> None:
        for number in range(STEPS):
            await step(number)

    run = dbos.DBOS.workflow()(workflow)
    dbos.DBOS.launch()
    await asyncio.gather(*(run() for _ in range(WARM_UP)))
    waiting = iter(range(count))

    async def loop() -> None:
        for _ in waiting:
            await run()

    began = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(at_once)))
    seconds = time.perf_counter() - began
    dbos.DBOS.destroy()
    return count / seconds


if __name__ == "__main__":
    rate = asyncio.run(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(rate))
