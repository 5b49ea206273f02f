"""Where output goes: tables on a terminal, plain lines into a pipe, JSON for programs."""

import json
import sys
import time
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, Self

from ccfd.cli import sheets
from ccfd.cli.board import RUNNING, Board
from ccfd.cli.sheets import Block, Facts, Sheet, text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

STYLES = {"done": "green", "retrying": "yellow", "failed": "red", "undone": "yellow"}


def write_json(document: Any, *, line: bool = False) -> None:
    """Print one JSON document, on one line if asked to."""
    print(json.dumps(document, indent=None if line else 2, ensure_ascii=False), flush=True)


def warn(message: str) -> None:
    """Tell people something that is no result."""
    print(message, file=sys.stderr, flush=True)


def show(blocks: Iterable[Block], file: IO[str] | None = None) -> None:
    """Print tables and facts, drawn if *file* (by default stdout) is a terminal."""
    file = file or sys.stdout
    for number, block in enumerate(blocks):
        if number:
            print(file=file)
        if file.isatty():
            _draw(block, file)
        else:
            print("\n".join(plain(block)), file=file)
    file.flush()


def plain(block: Block) -> list[str]:
    """Write a block as lines of aligned columns, as wide as they need."""
    if isinstance(block, Facts):
        rows: list[tuple[str, ...]] = list(block.items)
        title = []
    else:
        rows = [tuple(name.upper() for name in block.columns), *block.rows]
        title = [f"{block.title}:"] if block.title else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return title + [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _draw(block: Block, file: IO[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if isinstance(block, Sheet):
        table = Table(
            title=block.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for heading in block.columns:
            table.add_column(heading, overflow="fold")
        rows = block.rows
    else:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        rows = block.items
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=file).print(table)


def tell_failure(error: dict[str, Any], *, compensated: bool | None = None) -> None:
    """Tell people why something failed: code, message, details; and what is left of it."""
    warn(f"failed: {text(error.get('code'))}: {text(error.get('message'))}")
    show(sheets.details(error), sys.stderr)
    if error.get("retriable"):
        warn("this may pass: trying again later can help")
    if compensated is False:
        warn("something of the request may remain; ccfd goes on clearing it up")


class Lines:
    """Shows progress as plain lines, for pipes and logs."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._board = Board()
        self._clock = clock
        self._began = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, index: int, of: int, name: str, status: str) -> None:
        """Print the step if it has changed."""
        now = self._clock()
        if self._board.update(index, of, name, status, now):
            print(f"{now - self._began:6.1f} s  {index}/{of} {text(name)} {status}", flush=True)

    def note(self, text_: str) -> None:
        """Print a remark."""
        warn(text_)


class Display:
    """Shows progress live on a terminal: each step, its status, its time."""

    def __init__(self, heading: str, clock: Any = time.monotonic) -> None:
        self._heading = heading
        self._board = Board()
        self._clock = clock
        self._began = clock()
        self._note = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(get_renderable=self._render, refresh_per_second=8)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, index: int, of: int, name: str, status: str) -> None:
        """Show the step's new status."""
        self._note = ""
        self._board.update(index, of, name, status, self._clock())

    def note(self, text_: str) -> None:
        """Show a remark below the steps, until something happens."""
        self._note = text_

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        now = self._clock()
        table = Table.grid(padding=(0, 2))
        # A copy: this runs in the display's own thread.
        for index, line in sorted(dict(self._board.lines).items()):
            running = line.status in RUNNING
            style = STYLES.get(line.status, "cyan" if running else "")
            table.add_row(
                f"{index}/{self._board.of}",
                Text(text(line.name)),
                Text(line.status, style=style),
                Text(f"{line.seconds(now):.1f} s", style="dim"),
            )
        count = f"{self._board.done}/{self._board.of} steps, " if self._board.of else ""
        foot = f"{self._heading}: {count}{now - self._began:.1f} s"
        parts: list[RenderableType] = [table, Spinner("dots", Text(foot))]
        if self._note:
            parts.append(Text(self._note, style="yellow"))
        return Group(*parts)
