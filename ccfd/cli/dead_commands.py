"""`ccfctl dead …`: messages that could not be carried out."""

from typing import Annotated

import typer

from ccfd.cli.session import segment, session

app = typer.Typer(help="Messages that could not be carried out.", no_args_is_help=True)
MessageId = Annotated[str, typer.Argument(metavar="ID", help="The message's id.")]


@app.command("list")
def list_(context: typer.Context) -> None:
    """List dead letters, oldest first."""
    session(context).list("dead")


@app.command()
def show(context: typer.Context, message_id: MessageId) -> None:
    """Show a dead letter: why it is one, and what it says."""
    from ccfd.cli import sheets

    session(context).show(f"/v1/dead/{segment(message_id)}", lambda found: [sheets.facts(found)])


@app.command()
def requeue(context: typer.Context, message_id: MessageId) -> None:
    """Send a dead letter's message again, as a request with a new id."""
    from ccfd.cli import sheets

    session(context).act(
        f"/v1/dead/{segment(message_id)}/requeue", lambda found: [sheets.facts(found)]
    )
