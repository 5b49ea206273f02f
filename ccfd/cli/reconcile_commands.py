"""`ccfctl reconcile`: what differs between hosts and database, and putting it right."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ccfd.cli.session import session

if TYPE_CHECKING:
    from ccfd.cli.sheets import Block, Document

PATH = "/v1/reconcile"


def reconcile(
    context: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Show what differs.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Have it put right now, orphans without grace.")
    ] = False,
) -> None:
    """Compare what hosts hold with the database."""
    if plan == apply:
        raise typer.BadParameter("give --plan or --apply")
    if plan:
        session(context).show(PATH, draw)
    else:
        session(context).act(PATH, draw)


def draw(document: "Document") -> "Iterable[Block]":
    """Describe what differs."""
    from ccfd.cli.sheets import Facts, Sheet, text

    blocks: list[Block] = []
    for title, columns in (
        ("repairs", ("action", "kind", "name", "host", "slice", "why")),
        ("states", ("vm", "slice", "from", "to", "reason")),
        ("unfinished", ("slice", "vm")),
        ("lost", ("kind", "name", "host")),
        ("flows", ("host", "vm", "slice", "why")),
    ):
        found = document.get(title) or []
        if found:
            rows = tuple(tuple(text(one.get(name)) for name in columns) for one in found)
            blocks.append(Sheet(title, columns, rows))
    unseen = document.get("unseen") or {}
    if unseen:
        rows = tuple((text(place), text(why)) for place, why in unseen.items())
        blocks.append(Sheet("not seen", ("place", "why"), rows))
    requests = document.get("requests") or []
    if requests:
        blocks.append(Facts(tuple(("request", text(identity)) for identity in requests)))
    return blocks or [Facts((("differences", "none"),))]
