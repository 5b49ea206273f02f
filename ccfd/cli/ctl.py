"""`ccfctl`: the command's entry point, its global options, its exit status.

0: done (a request: `succeeded`); 1: refused or failed; 2: wrong usage; 3: ccfd is not reached;
130: interrupted.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ccfd.cli import (
    console_commands,
    controller_commands,
    dead_commands,
    file_commands,
    look_commands,
    reconcile_commands,
    recover_command,
    request_commands,
    slice_commands,
    subnet_commands,
    vm_commands,
)
from ccfd.cli.session import Session
from ccfd.cli.watch_command import watch

if TYPE_CHECKING:
    from ccfd.cli.client import Target

FLAGS = frozenset({"--json"})
VALUES = frozenset({"--url", "--token", "--socket"})

app = typer.Typer(
    name="ccfctl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help comes without loading rich, whole, and the same on a terminal and in a pipe.
    rich_markup_mode=None,
    help="Manage the slices of an SDN testbed. Exit status: 0 done, 1 refused or failed, "
    "2 wrong usage, 3 ccfd is not reached.",
)
app.add_typer(slice_commands.app, name="slice")
app.add_typer(vm_commands.app, name="vm")
app.add_typer(controller_commands.app, name="controller")
app.add_typer(console_commands.app, name="console")
app.add_typer(subnet_commands.app, name="subnet")
app.add_typer(look_commands.host, name="host")
app.add_typer(look_commands.network, name="network")
app.add_typer(look_commands.flavor, name="flavor")
app.add_typer(look_commands.image, name="image")
app.add_typer(request_commands.request, name="request")
app.add_typer(dead_commands.app, name="dead")
app.command()(file_commands.plan)
app.command()(file_commands.apply)
app.command()(watch)
app.command()(request_commands.why)
app.command()(reconcile_commands.reconcile)
app.command()(recover_command.recover)


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="ccfd over TCP: http://ADDRESS:PORT. [env: CCF_HTTP_URL]")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="The bearer token for --url. [env: CCF_TOKEN]")
    ] = None,
    socket: Annotated[
        str | None,
        typer.Option(
            help="ccfd's UNIX socket; /run/ccfd/ccfd.sock by default. [env: CCF_HTTP_SOCKET]"
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="For programs: one JSON document on standard output.")
    ] = False,
) -> None:
    """Read the options that all commands share; they may stand anywhere."""
    if url is not None and socket is not None:
        raise typer.BadParameter("give --url or --socket, not both")
    if url is not None and not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--url {url}: must begin with http:// or https://")

    def target() -> "Target":
        from ccfd.cli.client import SOCKET, Target

        # What is typed goes before the environment, there a URL before a socket.
        known = os.environ.get
        where = url or (known("CCF_HTTP_URL") if socket is None else None)
        path = socket or known("CCF_HTTP_SOCKET") or SOCKET
        return Target(where or None, path, token or known("CCF_TOKEN"))

    context.obj = Session(target, json)


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Move the global options to the front, so that they may stand behind a command, too."""
    front: list[str] = []
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        is_ours = word in FLAGS or word.split("=")[0] in VALUES
        if not is_ours or _asks_for_address(word, rest, words):
            rest.append(word)
            continue
        front.append(word)
        if word in VALUES:
            front += words[:1]
            words = words[1:]
    return front + rest


def _asks_for_address(word: str, before: Sequence[str], behind: Sequence[str]) -> bool:
    """Tell whether it is the `--url` of `vm console`, which takes no value."""
    is_console = word == "--url" and list(before[:2]) == ["vm", "console"]
    return is_console and not (behind and behind[0].startswith(("http://", "https://")))


def main() -> None:
    """Run the command; it ends the program with its exit status."""
    app(args=globals_first(sys.argv[1:]))
