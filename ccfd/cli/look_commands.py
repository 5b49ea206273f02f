"""`ccfctl host|network|flavor|image …`: looking, not changing."""

from typing import Annotated

import typer

from ccfd.cli.session import segment, session

host = typer.Typer(help="Compute hosts.", no_args_is_help=True)
network = typer.Typer(help="Address pools.", no_args_is_help=True)
flavor = typer.Typer(help="Sizes of VMs.", no_args_is_help=True)
image = typer.Typer(help="Images of disks.", no_args_is_help=True)


@host.command("list")
def list_hosts(context: typer.Context) -> None:
    """List hosts and what of them is used."""
    session(context).list("hosts")


@host.command("show")
def show_host(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host's name.")],
) -> None:
    """Show a host."""
    from ccfd.cli import sheets

    session(context).show(f"/v1/hosts/{segment(name)}", lambda found: [sheets.facts(found)])


@network.command("list")
def list_networks(context: typer.Context) -> None:
    """List networks and what of them is used."""
    session(context).list("networks")


@flavor.command("list")
def list_flavors(context: typer.Context) -> None:
    """List flavors."""
    session(context).list("flavors")


@image.command("list")
def list_images(context: typer.Context) -> None:
    """List images."""
    session(context).list("images")
