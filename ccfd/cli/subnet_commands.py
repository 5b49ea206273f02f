"""`ccfctl subnet …`."""

from typing import Annotated

import typer

from ccfd.cli.options import IpCount, Island, StateFilter, Wait
from ccfd.cli.session import segment, session

app = typer.Typer(help="Address blocks of slices.", no_args_is_help=True)

Owner = Annotated[
    str, typer.Argument(metavar="OWNER", help="Whose subnet it is: the slice's name.")
]


@app.command()
def create(
    context: typer.Context,
    owner: Owner,
    *,
    ipcount: IpCount = None,
    timeout: Annotated[
        int | None, typer.Option(help="Seconds that it is held unconfirmed; 120 by default.")
    ] = None,
    island: Island = None,
    wait: Wait = True,
) -> None:
    """Reserve a subnet for a while."""
    data = {"owner": owner, "ipcount": ipcount, "timeout": timeout, "island": island}
    session(context).send("subnet.create", data, wait=wait)


@app.command()
def confirm(context: typer.Context, owner: Owner, wait: Wait = True) -> None:
    """Keep a reserved subnet for good."""
    session(context).send("subnet.create_success", {"owner": owner}, wait=wait)


@app.command()
def delete(context: typer.Context, owner: Owner, wait: Wait = True) -> None:
    """Give a subnet back."""
    session(context).send("subnet.delete", {"owner": owner}, wait=wait)


@app.command("list")
def list_(context: typer.Context, state: StateFilter = None) -> None:
    """List subnets."""
    session(context).list("subnets", state=state)


@app.command()
def show(context: typer.Context, owner: Owner) -> None:
    """Show an owner's subnet."""
    from ccfd.cli import sheets

    session(context).show(f"/v1/subnets/{segment(owner)}", lambda found: [sheets.facts(found)])
