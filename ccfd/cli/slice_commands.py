"""`ccfctl slice …`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccfd.cli import controller_option, vm_option
from ccfd.cli.options import IpCount, Island, StateFilter, Wait, parsed
from ccfd.cli.session import segment, session

if TYPE_CHECKING:
    from ccfd.cli.client import Client, Document

app = typer.Typer(help="Slices: tenants' virtual networks.", no_args_is_help=True)

Controller = Annotated[
    str | None,
    typer.Option(
        metavar="CONTROLLER",
        help=controller_option.CONTROLLER_HELP,
        callback=parsed(controller_option.read_controller),
    ),
]
Sflow = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS:PORT", help="A collector that its switches tell by sFlow."),
]
Ipfix = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS:PORT", help="A collector that its switches tell by IPFIX."),
]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The slice's name.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    *,
    vm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,…", help=vm_option.VM_HELP, callback=parsed(vm_option.read_vm)
        ),
    ] = None,
    ipcount: IpCount = None,
    island: Island = None,
    dhcp: Annotated[bool, typer.Option("--dhcp/--no-dhcp", help="Serve DHCP in it.")] = True,
    gateway: Annotated[
        bool, typer.Option("--gateway/--no-gateway", help="Give it a way out.")
    ] = True,
    controller: Controller = None,
    sflow: Sflow = None,
    ipfix: Ipfix = None,
    description: Description = None,
    project: Annotated[str | None, typer.Option(help="The project that it belongs to.")] = None,
    user: Annotated[str | None, typer.Option(help="The person that it belongs to.")] = None,
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Public keys that may log in to its VMs; may be repeated.",
            callback=parsed(vm_option.read_keys),
        ),
    ] = None,
    expires_in: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="When it is deleted: seconds, or a number with s, m, h or d. 30d by default.",
            callback=parsed(vm_option.read_duration),
        ),
    ] = None,
    wait: Wait = True,
) -> None:
    """Create a slice, with VMs if asked to."""
    data = {
        "slice": name,
        "island": island,
        "description": description,
        "project": project,
        "user": user,
        "ipcount": ipcount,
        "dhcp": dhcp,
        "gateway": gateway,
        "controller": controller_option.read_controller(controller) if controller else None,
        "monitoring": _collectors(sflow, ipfix),
        "vms": [vm_option.read_vm(one) for one in vm or ()],
        "ssh_keys": [key for file in ssh_key or () for key in vm_option.read_keys(file)],
        "expires_in": vm_option.read_duration(expires_in) if expires_in else None,
    }
    session(context).send("slice.create", data, wait=wait)


@app.command("list")
def list_(
    context: typer.Context,
    state: StateFilter = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this person.")] = None,
) -> None:
    """List slices."""
    session(context).list("slices", state=state, project=project, user=user)


@app.command()
def show(context: typer.Context, name: Name) -> None:
    """Show a slice, its VMs, and who holds a DHCP lease."""
    from ccfd.cli import sheets

    path = f"/v1/slices/{segment(name)}"

    async def look(client: "Client") -> "Document":
        found = await client.get(path)
        return {**found, "leases": await client.items(f"{path}/leases")}

    session(context).tell(session(context).ask(look), sheets.slice_)


@app.command()
def topology(context: typer.Context, name: Name) -> None:
    """Show how a slice's network hangs together, and what goes through it."""
    from ccfd.cli import topology_sheet

    session(context).show(f"/v1/slices/{segment(name)}/topology", topology_sheet.topology)


@app.command()
def ssh_key(
    context: typer.Context,
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Make this file, which only you can read; else the key is printed.",
        ),
    ] = None,
) -> None:
    """Print the private SSH key that logs in to the slice's VMs."""
    from ccfd.cli.output import write_json

    here = session(context)
    found = here.ask(lambda client: client.get(f"/v1/slices/{segment(name)}/ssh-key"))
    if output is not None:
        _write_private(output, found["private_key"])
    elif here.as_json:
        write_json(found)
    else:
        print(found["private_key"], end="")


def _write_private(path: Path, text: str) -> None:
    """Make a file that ssh accepts: nobody else may read it, from its first moment."""
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
    except OSError as exc:
        raise typer.BadParameter(f"cannot make {path}: {exc.strerror}") from exc


@app.command()
def update(
    context: typer.Context,
    name: Name,
    *,
    controller: Controller = None,
    detach: Annotated[
        bool, typer.Option("--no-controller", help="Have its switches forward by themselves.")
    ] = False,
    sflow: Sflow = None,
    ipfix: Ipfix = None,
    silent: Annotated[
        bool, typer.Option("--no-monitoring", help="Have its switches tell no collector.")
    ] = False,
    description: Description = None,
    expires_in: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="When it is deleted, from now: seconds, or a number with s, m, h or d.",
            callback=parsed(vm_option.read_duration),
        ),
    ] = None,
    wait: Wait = True,
) -> None:
    """Change a slice's description, its end, its OpenFlow controller, or its collectors."""
    if detach and controller is not None:
        raise typer.BadParameter("give --controller or --no-controller, not both")
    collectors = _collectors(sflow, ipfix)
    if silent and collectors is not None:
        raise typer.BadParameter("give --no-monitoring, or --sflow and --ipfix, not both")
    data = {
        "slice": name,
        "controller": controller_option.read_controller(controller) if controller else None,
        "monitoring": collectors,
        "description": description,
        "expires_in": vm_option.read_duration(expires_in) if expires_in else None,
    }
    given = {key: value for key, value in data.items() if value is not None}
    # Null is what ends them.
    ended = {"controller": detach, "monitoring": silent}
    nulls = {name: None for name, ends in ended.items() if ends}
    session(context).send_whole("slice.update", {**given, **nulls}, wait=wait)


def _collectors(sflow: str | None, ipfix: str | None) -> dict[str, str] | None:
    """Return what is asked for as events say it; the address is looked at by ccfd."""
    given = {"sflow": sflow, "ipfix": ipfix}
    return {name: to for name, to in given.items() if to is not None} or None


@app.command()
def delete(context: typer.Context, name: Name, wait: Wait = True) -> None:
    """Delete a slice and all that is in it."""
    session(context).send("slice.delete", {"slice": name}, wait=wait)


@app.command()
def start(context: typer.Context, name: Name, wait: Wait = True) -> None:
    """Start the VMs of a slice that are off."""
    session(context).send("slice.start", {"slice": name}, wait=wait)


@app.command()
def stop(context: typer.Context, name: Name, wait: Wait = True) -> None:
    """Shut the VMs of a slice down; its addresses and its network stay."""
    session(context).send("slice.stop", {"slice": name}, wait=wait)
