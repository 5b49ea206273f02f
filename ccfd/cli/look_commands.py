"""`ccfctl host|network|flavor|image …`: what slices are made of."""

from typing import Annotated

import typer

from ccfd.cli.options import Wait
from ccfd.cli.session import segment, session

HostName = Annotated[str, typer.Argument(metavar="NAME", help="The host's name.")]
FlavorName = Annotated[str, typer.Argument(metavar="NAME", help="The flavor's name.")]

host = typer.Typer(help="Compute hosts.", no_args_is_help=True)
network = typer.Typer(help="Address pools.", no_args_is_help=True)
flavor = typer.Typer(help="Sizes of VMs.", no_args_is_help=True)
image = typer.Typer(help="Images of disks.", no_args_is_help=True)


@host.command("list")
def list_hosts(context: typer.Context) -> None:
    """List hosts and what of them is used."""
    session(context).list("hosts")


@host.command("show")
def show_host(context: typer.Context, name: HostName) -> None:
    """Show a host."""
    from ccfd.cli import sheets

    session(context).show(f"/v1/hosts/{segment(name)}", lambda found: [sheets.facts(found)])


@host.command()
def drain(context: typer.Context, name: HostName, wait: Wait = True) -> None:
    """Give a host no new VMs; those that are there stay."""
    session(context).send("host.drain", {"host": name}, wait=wait)


@host.command()
def activate(context: typer.Context, name: HostName, wait: Wait = True) -> None:
    """Give a host VMs again."""
    session(context).send("host.activate", {"host": name}, wait=wait)


@network.command("list")
def list_networks(context: typer.Context) -> None:
    """List networks and what of them is used."""
    session(context).list("networks")


@flavor.command("list")
def list_flavors(context: typer.Context) -> None:
    """List flavors."""
    session(context).list("flavors")


@flavor.command()
def create(
    context: typer.Context,
    name: FlavorName,
    *,
    cpu: Annotated[int, typer.Option(help="vCPUs.")],
    ram: Annotated[int, typer.Option(help="MiB.")],
    disk: Annotated[int, typer.Option(help="GiB.")],
    bandwidth: Annotated[
        int | None, typer.Option(help="Mbit/s, each way; no limit by default.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Give a size of VMs a name."""
    data = {"flavor": name, "cpu": cpu, "ram": ram, "disk": disk}
    limit = {} if bandwidth is None else {"bandwidth": bandwidth}
    session(context).send("flavor.create", data | limit, wait=wait)


@flavor.command()
def delete(context: typer.Context, name: FlavorName, wait: Wait = True) -> None:
    """Delete a flavor and every VM of it."""
    session(context).send("flavor.delete", {"flavor": name}, wait=wait)


@image.command("import")
def import_(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this image; all by default.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Take the list of images from the image store."""
    session(context).send("image.import", {"name": name}, wait=wait)


@image.command("list")
def list_images(context: typer.Context) -> None:
    """List images."""
    session(context).list("images")
