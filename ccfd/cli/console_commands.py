"""`ccfctl console …`: consoles that are open."""

from typing import Annotated

import typer

from ccfd.cli.session import segment, session

app = typer.Typer(help="Consoles of VMs that are open.", no_args_is_help=True)
ConsoleId = Annotated[str, typer.Argument(metavar="ID", help="The console's id.")]


@app.command("list")
def list_(context: typer.Context) -> None:
    """List open consoles, and who looks at them."""
    session(context).list("consoles")


@app.command()
def close(context: typer.Context, console_id: ConsoleId) -> None:
    """End an open console; its viewer is told."""
    from ccfd.cli import sheets

    session(context).remove(
        f"/v1/consoles/{segment(console_id)}", lambda found: [sheets.facts(found)]
    )
