"""How does the lab get a PostgreSQL of its own?"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import asyncpg

from tests.lab import daemons, namespaces
from tests.lab.layout import CLIENT_PORT_SQL, SERVICES, Layout
from tests.lab.shell import LabError, run, wait_until

_HOME = "/var/lib/postgresql"
_DATA = f"{_HOME}/data"

# It refuses to run as root.
_AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]

_SETTINGS = {
    "listen_addresses": "*",
    "max_connections": 100,
    "shared_buffers": "64MB",
    # What is lost with the machine's power does not matter here. What a killed server had
    # committed must be there: the kernel has it, unless `synchronous_commit` is off, too.
    "fsync": "off",
    "full_page_writes": "off",
}


def start(layout: Layout) -> None:
    """Make the cluster and the database `ccfd`, and start it; returns when it accepts a login."""
    home = layout.home(SERVICES)
    for folder in (home / "lib-postgresql", home / "run" / "postgresql"):
        shutil.chown(folder, "postgres", "postgres")
    initdb = [
        *(f"{_programs()}/initdb", "--pgdata", _DATA, "--username=ccfd", "--auth=trust"),
        *("--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
    ]
    run(namespaces.inside(layout, SERVICES, [*_AS_POSTGRES, *initdb], cwd="/"))
    with (home / "lib-postgresql" / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all trust\n")
    start_daemon(layout)
    wait_until(lambda: _execute(layout, "template1", "SELECT 1"), "PostgreSQL")
    _execute(layout, "template1", "CREATE DATABASE ccfd")


def start_daemon(layout: Layout) -> None:
    """Start the server."""
    settings = {**_SETTINGS, "port": CLIENT_PORT_SQL}
    words = [f"{_programs()}/postgres", "-D", _DATA]
    words += [f"--{key}={value}" for key, value in settings.items()]
    daemons.detach(layout, SERVICES, [*_AS_POSTGRES, *words], log=f"{_HOME}/output")


def answers(layout: Layout) -> bool:
    """Tell whether the server accepts a login."""
    return _execute(layout, "ccfd", "SELECT 1")


def _execute(layout: Layout, database: str, statement: str) -> bool:
    asyncio.run(_ask(layout.management(SERVICES), database, statement))
    return True


async def _ask(address: str, database: str, statement: str) -> None:
    connection = await asyncpg.connect(
        host=address, port=CLIENT_PORT_SQL, user="ccfd", database=database, timeout=30, ssl=False
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        raise LabError("no PostgreSQL is installed: run `make setup`")
    return found[-1]
