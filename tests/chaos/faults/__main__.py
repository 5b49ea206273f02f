"""`python -m tests.chaos.faults`: let everything fail under load, and publish what came of it.

Exit status 1 when anything was lost, done twice, leaked, or could not be put right.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import structlog

from tests.chaos.faults import load
from tests.chaos.faults.fault import FAULTS, Fault
from tests.chaos.faults.page import page
from tests.chaos.faults.row import Row
from tests.lab import Lab

SLICES = 30


def main() -> int:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    # The portal's own reconnections.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    faults = [fault for fault in FAULTS if arguments.only in fault.title]
    rows = _run(faults, arguments)
    text = page(rows, slices=arguments.slices, seed=arguments.seed)
    if arguments.write is not None:
        arguments.write.write_text(text)
    else:
        print(text)
    good = all(row.good for row in rows)
    tell("all is well" if good else "NOT WELL")
    return 0 if good else 1


def _run(faults: list[Fault], arguments: argparse.Namespace) -> list[Row]:
    """Let each of *faults* happen; all in one lab, for as long as all goes well."""
    rows: list[Row] = []
    todo = iter(faults)
    while fault := next(todo, None):
        with _lab() as lab:
            while fault is not None:
                # Of its own seed: a fault alone goes as it went among others.
                random = Random(f"{arguments.seed} {fault.title}")
                some = asyncio.run(load.run(lab, fault, arguments.slices, random=random, tell=tell))
                rows += some
                for row in some:
                    _report(row)
                if not all(row.good for row in some):
                    _keep_logs(lab, fault, arguments.logs)
                    break
                fault = next(todo, None)
    return rows


@contextmanager
def _lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        lab = Lab.up(Path(name) / "lab", hosts=2)
        try:
            load.blank_image(lab)
            yield lab
        finally:
            lab.down()


def _report(row: Row) -> None:
    tell(
        f"{row.event}, {row.fault.title}: once {row.once} of {row.requests} "
        f"({row.under_way} under way), lost {row.lost}, twice {row.twice}, "
        f"succeeded {row.succeeded}, undone {row.undone}, half {row.half}, "
        f"put back {row.put_back}, removed {row.removed}, leaks {row.leaks}, {row.seconds:.1f} s"
    )
    for note in row.notes:
        tell(f"    {note}")


def _keep_logs(lab: Lab, fault: Fault, folder: Path | None) -> None:
    """Keep what ccfd said of a fault that did harm."""
    if folder is not None:
        name = fault.title.replace(" ", "-").replace(":", "").replace(",", "")
        (folder / name).mkdir(parents=True, exist_ok=True)
        for log in lab.layout.dir.glob("ccfd*.log"):
            shutil.copy(log, folder / name)


def tell(line: str) -> None:
    """Tell whoever waits."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.faults", description=__doc__)
    parser.add_argument("--slices", type=int, default=SLICES, help="created and deleted at once")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="faults with TEXT in their title"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep ccfd's logs of bad faults")
    return parser


BEGAN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
