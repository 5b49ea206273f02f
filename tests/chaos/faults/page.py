"""What is published of the faults: one table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.faults.row import Row

PREFACE = """\
# The fault table

What becomes of requests when something that ccfd depends on fails, or one of several ccfd does?
Written by `make faults`, by measuring.

For each fault, {slices} `slice.create` are published at once, as a portal does, to `ccfd run` with
its default settings, PostgreSQL, RabbitMQ, and two hosts with real libvirt, QEMU, Open vSwitch and
dnsmasq. In the middle of it the fault comes: when a random number of the slices, up to half, has
come to the step that it hits. When all have ended, hosts and database are compared. Then all
slices are deleted at once, and the fault comes again, in the middle of that.

- **Killed**: SIGKILL, and started again after some seconds, as systemd would. **Stopped**: in good
  order, and started again. **Frozen**: SIGSTOP, then SIGCONT: connections stay open and nobody
  answers.
- **Under way**: how many requests had not ended when the fault came.
- **Ended once**: one terminal result came to the portal, whose queue is durable; copies of it have
  the same id and body. *Lost*: none came. *Twice*: two different ones came, or a VM had two QEMU,
  or a slice two DHCP servers.
- **Succeeded**; or **failed and undone** (`compensated` is true, nothing of it remains); or
  **failed half way** (`compensated` is false): what it left was then undone by
  `ccfctl request retry`, or deleted by the deletion that `ccfctl reconcile --apply` sends again.
- **Put back / removed**: what `ccfctl reconcile --apply` found missing, or left behind, before
  hosts and database were compared. With `[reconcile] every` that happens by itself.
- **Leaks**: what hosts hold and no slice of the database needs; after the deletions, whatever is
  left anywhere: domains, volumes, bridges, ports, namespaces, links, servers, rows, addresses,
  capacity.
- **After**: from the end of the fault (all answers again) until the last request had ended.

The VMs have empty disks, so that {slices} booting guests do not take the processors from what is
measured. Where a fault hits what guests use, a slice with a booted guest on each host is there
before: after the fault both must get their leases anew, and reach each other by HTTP.
"""


def page(rows: Sequence[Row], *, slices: int, seed: int) -> str:
    """Return the page."""
    lines = [PREFACE.format(slices=slices), "## Totals", *_totals(rows), ""]
    for event, title in (("slice.create", "While creating"), ("slice.delete", "While deleting")):
        lines += [f"## {title}", *HEAD, *(_line(row) for row in rows if row.event == event), ""]
    if harm := [line for row in rows for line in _harm(row)]:
        lines += ["## What went wrong", *harm, ""]
    lines += [
        "## Again",
        "`make faults` writes this page anew and fails on what is lost, done twice, leaked or not "
        f"put right. The random choices come from seed {seed}; `python -m tests.chaos.faults "
        f"--seed {seed + 1}` makes others, `--slices 10` takes fewer slices, and `--only libvirtd` "
        "runs a part.",
    ]
    return "\n".join(lines) + "\n"


def _harm(row: Row) -> list[str]:
    """Tell of what should not have been: not of failed requests, nor of what was put right."""
    told = [note for note in row.notes if not note.startswith(("repaired", "state"))]
    return [
        f"- {row.event}, {row.fault.title}: {note}"
        for note in told
        if not row.good and " failed: " not in note
    ]


HEAD = (
    "| fault | requests | under way | ended once | lost | twice | succeeded | failed and undone "
    "| failed half way | put back / removed | leaks | after |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def _totals(rows: Sequence[Row]) -> list[str]:
    sums = {
        "faults": len(rows),
        "requests": sum(row.requests for row in rows),
        "ended once": sum(row.once for row in rows),
        "lost": sum(row.lost for row in rows),
        "twice": sum(row.twice for row in rows),
        "succeeded": sum(row.succeeded for row in rows),
        "failed and undone": sum(row.undone for row in rows),
        "failed half way": sum(row.half for row in rows),
        "leaks": sum(row.leaks for row in rows),
    }
    return [
        "| " + " | ".join(sums) + " |",
        "|" + " ---: |" * len(sums),
        "| " + " | ".join(map(str, sums.values())) + " |",
    ]


def _line(row: Row) -> str:
    cells = [
        row.fault.title,
        str(row.requests),
        str(row.under_way),
        str(row.once),
        _bad(row.lost),
        _bad(row.twice),
        str(row.succeeded),
        str(row.undone),
        str(row.half),
        f"{row.put_back} / {row.removed}",
        _bad(row.leaks),
        f"{row.seconds:.1f} s" + ("" if row.whole else " **not put right**"),
    ]
    return "| " + " | ".join(cells) + " |"


def _bad(count: int) -> str:
    return f"**{count}**" if count else "0"
