"""`ccfctl request …`: what became of a request, and a person's hand on it."""

from typing import Annotated

import typer

from ccfd.cli.session import segment, session
from ccfd.cli.vm_commands import vm_id

request = typer.Typer(help="Requests and what became of them.", no_args_is_help=True)
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The request's id.")]


@request.command("list")
def list_(
    context: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="Only in this state: running, undoing, stuck, …")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Only of this type: slice.create, …")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only of this key: slice:NAME, …")] = None,
) -> None:
    """List requests that were begun, the oldest first."""
    session(context).list("workflows", state=state, type=type_, key=key)


@request.command("show")
def show(context: typer.Context, request_id: RequestId) -> None:
    """Show a request, its steps, and how it ended."""
    from ccfd.cli import sheets

    session(context).show(f"/v1/requests/{segment(request_id)}", sheets.request)


@request.command("cancel")
def cancel(context: typer.Context, request_id: RequestId) -> None:
    """Have a request that waits or runs turned back and undone."""
    _intervene(context, request_id, "cancel")


@request.command("retry")
def retry(context: typer.Context, request_id: RequestId) -> None:
    """Have a stuck request's undo tried again."""
    _intervene(context, request_id, "retry")


@request.command("abandon")
def abandon(context: typer.Context, request_id: RequestId) -> None:
    """Free what a stuck request holds; the sweep removes what it left on hosts."""
    _intervene(context, request_id, "abandon")


def why(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A slice, a VM (id or SLICE/NAME), a request.")
    ],
) -> None:
    """Tell all that happened to a slice, a VM or a request, down to the calls to hosts."""
    from ccfd.cli import sheets

    known = session(context)
    known.show(f"/v1/history/{segment(vm_id(known, name))}", sheets.history)


def _intervene(context: typer.Context, request_id: str, act: str) -> None:
    from ccfd.cli import sheets

    session(context).act(f"/v1/requests/{segment(request_id)}/{act}", sheets.request)
