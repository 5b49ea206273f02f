"""What is published of the kills: tables in Markdown, and whether all is well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.chaos.matrix import AGAIN, ANY_MOMENT, IN_A_BURST, Row
from tests.chaos.scenarios import SCENARIOS

LEAKS = (
    "domains",
    "bridges",
    "ports",
    "namespaces",
    "servers",
    "leases",
    "volumes",
    "addresses",
    "subnets",
    "pool items",
    "records",
    "capacity",
)
MOMENTS = ("before", "during", "after")


@dataclass
class Report:
    """The rows of all parts that were run."""

    seed: int
    matrix: Sequence[Row] = ()
    cold: Sequence[Row] = ()
    lab: Sequence[Row] = ()
    uncovered: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [*self.matrix, *self.cold, *self.lab]

    @property
    def good(self) -> bool:
        """Tell whether every kill came to nothing, and every event type was killed."""
        return not self.uncovered and all(row.verdict.good for row in self.rows)

    def markdown(self) -> str:
        """Return the page."""
        return "\n".join([*_PREFACE, *self._totals(), *self._details(), *self._again()]) + "\n"

    def _totals(self) -> list[str]:
        lines = [
            "## Totals",
            "| kills | number | ended exactly once | as without the kill | leaks |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for name, rows in (
            ("over twins, warm", self.matrix),
            ("over twins, a cold process", self.cold),
            ("in the lab", self.lab),
            ("**all**", self.rows),
        ):
            if rows:
                lines.append(f"| {name} | {_Sum.of(rows).cells()} |")
        leaks = {kind: sum(row.verdict.leaks.get(kind, 0) for row in self.rows) for kind in LEAKS}
        unknown = sum(sum(row.verdict.leaks.values()) for row in self.rows) - sum(leaks.values())
        leaks["others"] = unknown
        lines += ["", "Leaked: " + ", ".join(f"{kind} {n}" for kind, n in leaks.items()) + ".", ""]
        if self.uncovered:
            lines += [f"**Served, but not killed here yet:** {', '.join(self.uncovered)}.", ""]
        return lines

    def _details(self) -> list[str]:
        lines: list[str] = []
        if self.matrix:
            lines += ["## Each step, each undo, each commit", *_stories(self.matrix), ""]
            lines += [*_matrix(self.matrix), ""]
        for title, rows in (("Cold processes", self.cold), ("The lab", self.lab)):
            if rows:
                lines += [
                    f"## {title}",
                    "| event | kills | ended exactly once | as without the kill | leaks |",
                    "| --- | ---: | ---: | ---: | ---: |",
                    *(f"| {name} | {_Sum.of(some).cells()} |" for name, some in _by_event(rows)),
                    "",
                ]
        return lines

    def _again(self) -> list[str]:
        return [
            "## Again",
            "`make chaos` writes this page anew and fails on any leak, and on any end that is lost "
            f"or doubled. The random choices come from seed {self.seed}; `python -m tests.chaos "
            f"--seed {self.seed + 1}` makes others, and `--twins`, `--cold` or `--lab 10` runs a "
            "part.",
        ]


_PREFACE = [
    "# The kill matrix",
    "",
    "What becomes of requests when ccfd is killed with SIGKILL? Written by `make chaos`, by "
    "measuring.",
    "",
    "- **Warm kills** hit a process with the engine, the handlers and the database of ccfd over "
    "twins of the drivers: hosts in a file that outlives the process and refuses what real hosts "
    "refuse. Each point of each story is killed once: *before* the step, *during* it (between two "
    "parts of a compound effect: the overlay is there, the seed is not), *after* it, and around "
    "each commit. A random quarter of the points is killed once more, with a second kill while the "
    "next process recovers; further kills come at random moments from outside. Of a burst of "
    "requests, more than are carried out at once, half of the points are chosen at random.",
    "- **Cold kills** hit a whole process, from HTTP to the lock on the database, over twins.",
    "- **Lab kills** hit `ccfd run` at a random moment of a random event, with real libvirt, QEMU, "
    "Open vSwitch, dnsmasq, RabbitMQ and PostgreSQL.",
    "",
    "After each kill ccfd is started again, with the message delivered again if it had not been "
    "acknowledged. Then: the request has *ended exactly once* (a terminal result that is sent "
    "again has the same id and body); everything is *as without the kill* (whole: the same state "
    "of slices, VMs, subnets, hosts; no VM started twice; hosts hold all that the database says); "
    "nothing is *leaked* (hosts and claims hold no more than the database's slices need, and "
    "nothing when all is deleted).",
    "",
]


@dataclass
class _Sum:
    """Rows, counted."""

    kills: int = 0
    tries: int = 0
    once: int = 0
    whole: int = 0
    leaks: int = 0
    moments: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> _Sum:
        total = cls()
        for row in rows:
            total.kills += row.kills
            total.tries += 1
            total.once += row.verdict.ended_once
            total.whole += row.verdict.whole
            total.leaks += sum(row.verdict.leaks.values())
            total.moments[row.moment] = total.moments.get(row.moment, 0) + row.kills
        return total

    def _share(self, count: int) -> str:
        return "100 %" if count == self.tries else f"**{count} of {self.tries}**"

    def cells(self) -> str:
        leaks = f"**{self.leaks}**" if self.leaks else "0"
        return f"{self.kills} | {self._share(self.once)} | {self._share(self.whole)} | {leaks}"

    def three(self) -> str:
        counts = [self.moments.get(moment, 0) for moment in MOMENTS]
        return " / ".join(map(str, counts)) if any(counts) else "-"


def _stories(rows: Sequence[Row]) -> list[str]:
    lines = ["The stories of each event, whose points are counted together:", ""]
    for event, some in _by_event(rows):
        told = {scenario.story for scenario in SCENARIOS if scenario.event == event}
        lines.append(f"- `{event}`: {'; '.join(sorted(told & {row.story for row in some}))}")
    return lines


def _matrix(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| event | killed at | before / during / after | kills | ended exactly once "
        "| as without the kill | leaks |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for event, some in _by_event(rows):
        for what in sorted({row.what for row in some}, key=_place):
            total = _Sum.of(row for row in some if row.what == what)
            lines.append(f"| {event} | {what} | {total.three()} | {total.cells()} |")
    return lines


def _place(what: str) -> tuple[int, str]:
    """Order: steps, undos, commits, the rest."""
    others = (AGAIN, ANY_MOMENT, IN_A_BURST)
    kinds = [what in others, what.startswith("commit"), what.startswith("undo")]
    return (3 - kinds.index(True) if True in kinds else 0, what)


def _by_event(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    order = list(dict.fromkeys(scenario.event for scenario in SCENARIOS))
    events = sorted(
        {row.event for row in rows},
        key=lambda event: order.index(event) if event in order else len(order),
    )
    return [(event, [row for row in rows if row.event == event]) for event in events]
