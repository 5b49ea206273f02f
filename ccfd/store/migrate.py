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


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if present is not None and present not in known:
        raise Refused(
            "invalid_state",
            f"the database was made by a newer ccfd (revision {present}): install that release",
        )
    if present != script.get_current_head():
        command.upgrade(config, "head")
