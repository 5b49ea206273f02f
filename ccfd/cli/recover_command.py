"""`ccfctl recover`: the database made again from what hosts hold."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ccfd.cli.session import session

if TYPE_CHECKING:
    from ccfd.cli.sheets import Block, Document

PATH = "/v1/recover"
WITHIN = 600.0
"""Seconds: hosts are asked, then each slice takes a transaction."""
NOT_ON_HOSTS = (
    "requests and their history, failed VMs, reservations without a slice, drained hosts; "
    "private SSH keys (slices get new ones, for VMs to come)"
)


def recover(
    context: typer.Context,
    from_hosts: Annotated[
        bool, typer.Option("--from-hosts", help="Read what hosts and the network node hold.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be made.")] = False,
) -> None:
    """Make lost rows of the database again; what is there stays as it is."""
    if not from_hosts:
        raise typer.BadParameter("give --from-hosts: there is no other source")
    patient = replace(session(context), within=WITHIN)
    if plan or not patient.as_json:
        patient.show(PATH, draw)
    if not plan:
        patient.act(PATH, draw_done)


def draw(document: "Document") -> "Iterable[Block]":
    """Describe what would be made, and what would not."""
    from ccfd.cli.sheets import Facts, Sheet, text

    slices = document.get("slices") or []
    sheets = (
        (
            "to make again",
            ("slice", "outcome", "vni", "subnet", "vms"),
            [{**one, "vms": len(one["vms"])} for one in slices],
        ),
        (
            "VMs",
            ("slice", "name", "vm", "host", "ip", "state"),
            [{**vm, "slice": one["slice"]} for one in slices for vm in one["vms"]],
        ),
        (
            "to be known",
            ("slice", "note"),
            [{"slice": one["slice"], "note": note} for one in slices for note in one["notes"]],
        ),
        ("left out", ("slice", "why"), document.get("left_out") or []),
        ("disks that no domain claims", ("vm", "host"), document.get("disks") or []),
        (
            "not seen",
            ("place", "why"),
            [{"place": k, "why": why} for k, why in (document.get("unseen") or {}).items()],
        ),
    )
    blocks: list[Block] = [
        Sheet(title, columns, tuple(tuple(text(row.get(c)) for c in columns) for row in rows))
        for title, columns, rows in sheets
        if rows
    ]
    known = document.get("known") or []
    facts = [("in the database already", text(known))] if known else []
    return [*blocks, Facts((*facts, ("not on hosts", NOT_ON_HOSTS)))]


def draw_done(document: "Document") -> "Iterable[Block]":
    """Say what was made, and what was not."""
    from ccfd.cli.sheets import Facts, text

    slices, left_out = document.get("slices") or [], document.get("left_out") or []
    return [
        Facts(
            (
                ("slices made again", text([one["slice"] for one in slices])),
                ("VMs made again", text(sum(len(one["vms"]) for one in slices))),
                ("left out", text([one["slice"] for one in left_out])),
            )
        )
    ]
