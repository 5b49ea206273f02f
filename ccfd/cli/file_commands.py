"""`ccfctl plan` and `ccfctl apply`: an event from a JSON file."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ccfd.cli.options import Wait
from ccfd.cli.session import session

File = Annotated[
    str,
    typer.Option(
        "-f",
        "--file",
        metavar="FILE",
        help='A JSON file, or - for standard input: {"type": "slice.create", "data": {…}}',
    ),
]


def read_event(file: str) -> dict[str, Any]:
    """Read an event; a usage error says what is wrong with it."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        event = json.loads(text)
    except OSError as exc:
        raise typer.BadParameter(f"cannot read {file}: {exc.strerror}") from exc
    except ValueError as exc:
        raise typer.BadParameter(f"{file} is not JSON: {exc}") from exc
    if (
        not isinstance(event, dict)
        or not isinstance(event.get("type"), str)
        or not isinstance(event.get("data", {}), dict)
        or not isinstance(event.get("id", ""), str)
        or set(event) - {"type", "id", "data"}
    ):
        raise typer.BadParameter(f'{file} is no event: {{"type": "…", "data": {{…}}}}')
    return event


def plan(context: typer.Context, file: File) -> None:
    """Tell what an event would do, without doing it."""
    event = read_event(file)
    here = session(context)
    body = {"type": event["type"], "data": event.get("data", {})}
    found = here.ask(lambda client: client.post("/v1/plan", body))
    from ccfd.cli import plan_sheet
    from ccfd.cli.output import show, write_json

    if here.as_json:
        write_json(found)
    else:
        show(plan_sheet.plan(found))


def apply(context: typer.Context, file: File, wait: Wait = True) -> None:
    """Send an event and follow it to its end.

    With an "id" of its own in the file, sending it again changes nothing.
    """
    event = read_event(file)
    session(context).send_whole(
        event["type"], event.get("data", {}), wait=wait, request_id=event.get("id")
    )
