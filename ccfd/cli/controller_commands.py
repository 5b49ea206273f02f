"""`ccfctl controller …`."""

from typing import Annotated

import typer

from ccfd.cli.options import Island, Wait
from ccfd.cli.session import session
from ccfd.cli.vm_commands import Vm, vm_id

app = typer.Typer(help="OpenFlow controllers that ccfd runs for slices.", no_args_is_help=True)


@app.command()
def create(
    context: typer.Context,
    slice_: Annotated[str, typer.Argument(metavar="SLICE", help="The slice that it is for.")],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image of its disk.")],
    *,
    island: Island = None,
    wait: Wait = True,
) -> None:
    """Start a controller from an image, and have the slice's switches dial it."""
    data = {"slice": slice_, "image_name": image, "island": island}
    session(context).send("controller.create", data, wait=wait)


@app.command()
def delete(context: typer.Context, vm: Vm, wait: Wait = True) -> None:
    """Delete a controller; the slice's switches forward by themselves again."""
    here = session(context)
    here.send("controller.delete", {"vm": vm_id(here, vm)}, wait=wait)
