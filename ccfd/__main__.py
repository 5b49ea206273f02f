"""`ccfd`: reads the settings, runs the daemon, returns an exit status."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from ccfd import settings
from ccfd.errors import CcfdError

application = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The CCF daemon.",
)
Config = Annotated[Path, typer.Option("--config", help="The settings.")]


def log_to_stderr() -> None:
    """Log facts with fields: for people on a terminal, as JSON lines otherwise."""
    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not people else lambda _l, _m, event: event,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if people
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@application.command()
def run(config: Config = settings.DEFAULT_PATH) -> None:
    """Run the daemon in the foreground, until SIGTERM or SIGINT."""
    log_to_stderr()
    loaded = settings.load(config)
    from ccfd.daemon import Daemon

    asyncio.run(Daemon(loaded).run())


@application.command()
def check(config: Config = settings.DEFAULT_PATH) -> None:
    """Ask all that ccfd needs whether it is well; exit status 1 when something fails."""
    # The findings say all that would be logged.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    logging.disable()
    from ccfd.cli import check as asking

    findings, status = asking.check(config)
    for line in asking.table(findings):
        typer.echo(line)
    raise typer.Exit(status)


database = typer.Typer(no_args_is_help=True, help="The database.")
application.add_typer(database, name="db")


@database.command()
def upgrade(config: Config = settings.DEFAULT_PATH) -> None:
    """Bring the database to this release's tables."""
    loaded = settings.load(config)
    from ccfd.store import migrate
    from ccfd.store.database import Database

    async def act() -> None:
        opened = Database(loaded.database)
        opened.take_hold()
        try:
            await migrate.upgrade(opened)
        finally:
            await opened.close()

    asyncio.run(act())
    typer.echo("the database is up to date")


def main() -> None:
    """Run the command line; a refused start is one line on stderr.

    Exit status 78 (EX_CONFIG) says that a restart would end the same way; 1 that it may not.
    """
    try:
        application()
    except CcfdError as exc:
        typer.echo(f"ccfd: {exc.message}", err=True)
        sys.exit(78 if exc.code == "invalid_message" else 1)


if __name__ == "__main__":
    main()
