"""How the database gets the tables that this release needs, and refuses a newer one's."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from ccfd.errors import Refused
from ccfd.store.database import Database

# Any number that no other program on the database uses for an advisory lock.
LOCK = 0x63636664


async def upgrade(database: Database) -> None:
    """Bring the database to this release's tables, one daemon at a time.

    Raises `Refused` (`invalid_state`) where a newer ccfd has made it, and `DatabaseAway`.
    """
    async with database.connection() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            await connection.commit()
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        finally:
            if not database.is_sqlite:
                await connection.rollback()
                await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
                await connection.commit()


async def compare(database: Database) -> str:
    """Say how the database's tables stand to this release's; change nothing.

    Raises `Refused` (`invalid_state`) where a newer ccfd has made it, and `DatabaseAway`.
    """
    async with database.connection() as connection:
        present, head = await connection.run_sync(lambda sync: _revisions(sync, _config(sync)))
    if present is None:
        return "empty: ccfd makes its tables at its first start"
    return "with this release's tables" if present == head else "older: the next start migrates it"


def _upgrade(connection: Connection) -> None:
    config = _config(connection)
    present, head = _revisions(connection, config)
    if present != head:
        command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _revisions(connection: Connection, config: Config) -> tuple[str | None, str | None]:
    """Return the database's revision and this release's; refuse one that is newer."""
    script = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if present is not None and present not in known:
        raise Refused(
            "invalid_state",
            f"the database was made by a newer ccfd (revision {present}): install that release",
        )
    return present, script.get_current_head()
