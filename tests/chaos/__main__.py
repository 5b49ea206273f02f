"""`python -m tests.chaos`: kill ccfd everywhere, and publish what came of it.

Without a choice of parts all are run, the lab with 100 kills. Exit status 1 on any leak, and on
any end that is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from ccfd.handlers.registry import handlers
from tests.chaos import cold, lab_kills, matrix
from tests.chaos.life import scratch
from tests.chaos.report import Report
from tests.chaos.scenarios import SCENARIOS
from tests.harness import lab_settings, template
from tests.lab import Lab

LAB_KILLS = 100


def main() -> int:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    everything = not (arguments.twins or arguments.cold or arguments.lab)
    # What ccfd logs of its thousand deaths helps nobody.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    report = Report(seed=arguments.seed)

    def publish() -> None:
        """Write what is known so far: it took long, and the next part may fail."""
        if arguments.write is not None:
            arguments.write.write_text(report.markdown())

    with scratch() as name:
        directory = Path(name)
        empty = template(directory)
        if everything or arguments.twins:
            report.uncovered = uncovered()
            report.matrix = matrix.run(
                directory, empty, seed=arguments.seed, moments=arguments.moments, tell=tell
            )
            publish()
        if everything or arguments.cold:
            report.cold = cold.run(directory, empty, seed=arguments.seed, tell=tell)
            publish()
    if everything or arguments.lab:
        report.lab = _in_a_lab(arguments.lab or LAB_KILLS, arguments.seed)
        publish()
    if arguments.write is None:
        print(report.markdown())
    tell("all is well" if report.good else "NOT WELL")
    return 0 if report.good else 1


def uncovered() -> list[str]:
    """List the event types that ccfd serves and no scenario kills."""
    return sorted(set(handlers(lab_settings("sqlite+aiosqlite://"))) - {s.event for s in SCENARIOS})


def _in_a_lab(kills: int, seed: int) -> list[matrix.Row]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        lab = Lab.up(Path(name) / "lab", hosts=2)
        try:
            return asyncio.run(lab_kills.run(lab, kills, seed=seed, tell=tell))
        finally:
            lab.down()


def tell(line: str) -> None:
    """Tell whoever waits."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--twins", action="store_true", help="the warm matrix over twins")
    parser.add_argument("--cold", action="store_true", help="a cold process over twins")
    parser.add_argument("--lab", type=int, metavar="N", help="N kills in the lab")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument(
        "--moments", type=int, default=3, help="random moments for each story of the matrix"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    return parser


BEGAN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
