"""`ccfctl vm …`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ccfd.cli.options import SliceFilter, StateFilter, Wait
from ccfd.cli.session import FAILED, Session, segment, session

if TYPE_CHECKING:
    from ccfd.cli.client import Client

app = typer.Typer(help="Virtual machines.", no_args_is_help=True)

snapshots = typer.Typer(help="Snapshots of a VM: `vm show` lists them.", no_args_is_help=True)
app.add_typer(snapshots, name="snapshot")

SnapshotName = Annotated[str, typer.Argument(metavar="NAME", help="The snapshot's name.")]
Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's id, or SLICE/NAME.")]
Force = Annotated[bool, typer.Option("--force", help="Cut its power without asking the guest.")]


@app.command()
def create(
    context: typer.Context,
    slice_: Annotated[str, typer.Argument(metavar="SLICE", help="The slice that it joins.")],
    *,
    image: Annotated[str, typer.Option(help="The image of its disk.")],
    flavor: Annotated[
        str | None, typer.Option(help="Its size; or give --cpu, --ram and --disk.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name in the slice.")] = None,
    host: Annotated[str | None, typer.Option(help="The host that shall run it.")] = None,
    cpu: Annotated[int | None, typer.Option(help="vCPUs.")] = None,
    ram: Annotated[int | None, typer.Option(help="MiB.")] = None,
    disk: Annotated[int | None, typer.Option(help="GiB.")] = None,
    bandwidth: Annotated[
        int | None, typer.Option(help="Mbit/s, each way, in place of its flavor's.")
    ] = None,
    same_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Beside this VM; may be repeated."),
    ] = None,
    different_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Not beside this VM; may be repeated."),
    ] = None,
    dhcp: Annotated[
        bool, typer.Option("--dhcp/--no-dhcp", help="Answer its DHCP requests.")
    ] = True,
    wait: Wait = True,
) -> None:
    """Add a VM to a slice."""
    sizes = (cpu, ram, disk)
    if (flavor is None) != all(sizes) or (flavor is not None and any(sizes)):
        raise typer.BadParameter("give either --flavor, or all of --cpu, --ram and --disk")
    data = {
        "slice": slice_,
        "name": name,
        "flavor": flavor,
        "cpu": cpu,
        "ram": ram,
        "disk": disk,
        "bandwidth": bandwidth,
        "image": image,
        "host": host,
        "dhcp": dhcp,
        "same_host": same_host or None,
        "different_host": different_host or None,
    }
    session(context).send("vm.create", data, wait=wait)


@app.command("list")
def list_(
    context: typer.Context,
    slice_: SliceFilter = None,
    host: Annotated[str | None, typer.Option(help="Only on this host.")] = None,
    state: StateFilter = None,
) -> None:
    """List VMs."""
    session(context).list("vms", slice=slice_, host=host, state=state)


@app.command()
def show(context: typer.Context, vm: Vm) -> None:
    """Show a VM."""
    from ccfd.cli import sheets

    here = session(context)
    here.show(
        f"/v1/vms/{segment(vm_id(here, vm))}",
        lambda found: [sheets.facts(found, "error"), *sheets.error(found.get("error"))],
    )


@app.command()
def delete(context: typer.Context, vm: Vm, wait: Wait = True) -> None:
    """Delete a VM."""
    here = session(context)
    here.send("vm.delete", {"vm": vm_id(here, vm)}, wait=wait)


@app.command()
def console(
    context: typer.Context,
    vm: Vm,
    *,
    url: Annotated[
        bool, typer.Option("--url", help="Print the address of its screen, for a browser.")
    ] = False,
    serial: Annotated[
        bool, typer.Option("--serial", help="With --url: of its serial console.")
    ] = False,
    view_only: Annotated[bool, typer.Option("--view-only", help="Only look.")] = False,
) -> None:
    """Open a VM's serial console in this terminal. Ctrl-] leaves it."""
    from ccfd.cli import terminal
    from ccfd.cli.output import warn, write_json

    here = session(context)
    wish = {"type": "serial" if serial or not url else "vnc", "view_only": view_only}
    if not url and not terminal.is_there():
        raise typer.BadParameter("this is no terminal; --url prints an address for a browser")
    path = f"/v1/vms/{segment(vm_id(here, vm))}/console"
    if url:
        told = here.ask(lambda client: client.post(path, wish))
        write_json(told) if here.as_json else print(told["url"])
        return

    async def attach(client: "Client") -> str | None:
        ticket = (await client.post(path, wish))["ticket"]
        warn(f"the serial console of {vm}; Ctrl-] leaves it")
        return await terminal.attach(client, ticket)

    why = here.ask(attach)
    if why is not None:
        warn(f"\nccfctl: {why}")
        raise typer.Exit(FAILED)
    warn("\nleft")


def _power(context: typer.Context, kind: str, vm: str, *, wait: bool, force: bool = False) -> None:
    here = session(context)
    more = {"force": True} if force else {}
    here.send(f"vm.{kind}", {"vm": vm_id(here, vm), **more}, wait=wait)


@app.command()
def start(context: typer.Context, vm: Vm, wait: Wait = True) -> None:
    """Start a VM that is off."""
    _power(context, "start", vm, wait=wait)


@app.command()
def stop(context: typer.Context, vm: Vm, *, force: Force = False, wait: Wait = True) -> None:
    """Shut a VM down; its power is cut when it takes too long."""
    _power(context, "stop", vm, wait=wait, force=force)


@app.command()
def reboot(context: typer.Context, vm: Vm, *, force: Force = False, wait: Wait = True) -> None:
    """Shut a VM down and start it again."""
    _power(context, "reboot", vm, wait=wait, force=force)


@app.command()
def suspend(context: typer.Context, vm: Vm, wait: Wait = True) -> None:
    """Have a VM stand still, its memory kept."""
    _power(context, "suspend", vm, wait=wait)


@app.command()
def resume(context: typer.Context, vm: Vm, wait: Wait = True) -> None:
    """Have a suspended VM go on."""
    _power(context, "resume", vm, wait=wait)


@app.command()
def resize(
    context: typer.Context,
    vm: Vm,
    flavor: Annotated[str, typer.Option(help="Its new size.")],
    wait: Wait = True,
) -> None:
    """Give a VM another size; one that runs is restarted."""
    here = session(context)
    here.send("vm.resize", {"vm": vm_id(here, vm), "flavor": flavor}, wait=wait)


def _snapshot(context: typer.Context, what: str, vm: str, name: str, *, wait: bool) -> None:
    here = session(context)
    here.send(f"vm.snapshot_{what}", {"vm": vm_id(here, vm), "snapshot": name}, wait=wait)


@snapshots.command("create")
def snapshot_create(context: typer.Context, vm: Vm, name: SnapshotName, wait: Wait = True) -> None:
    """Keep a VM's disk as it is now, and its memory if it is not off."""
    _snapshot(context, "create", vm, name, wait=wait)


@snapshots.command("revert")
def snapshot_revert(context: typer.Context, vm: Vm, name: SnapshotName, wait: Wait = True) -> None:
    """Have a VM be as it was; what has happened since is lost."""
    _snapshot(context, "revert", vm, name, wait=wait)


@snapshots.command("delete")
def snapshot_delete(context: typer.Context, vm: Vm, name: SnapshotName, wait: Wait = True) -> None:
    """Delete a snapshot."""
    _snapshot(context, "delete", vm, name, wait=wait)


def vm_id(here: Session, vm: str) -> str:
    """Return the id of a VM that may be named SLICE/NAME."""
    slice_name, slash, name = vm.partition("/")
    if not slash:
        return vm

    async def find(client: "Client") -> list[dict[str, str]]:
        return await client.items("/v1/vms", slice=slice_name, name=name)

    found = here.ask(find)
    if not found:
        here.fail(
            {
                "code": "vm_not_found",
                "message": f"there is no VM {name!r} in slice {slice_name!r}",
                "retriable": False,
                "details": {},
            }
        )
    return found[0]["vm"]
