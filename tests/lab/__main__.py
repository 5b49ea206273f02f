"""The lab's commands: `python -m tests.lab up|status|exec|guest|down --dir DIR …`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.lab.layout import Layout, load
from tests.lab.shell import LabError

_ANSWER_TIMEOUT = 9.0
_TOTAL_TIMEOUT = 60.0


def main() -> int:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.command(arguments))
    except (LabError, TimeoutError) as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    from tests.lab.lab import Lab

    started = time.monotonic()
    lab = Lab.up(arguments.dir, arguments.hosts)
    print(f"lab: {lab.layout.hosts} hosts are up in {time.monotonic() - started:.1f} s")
    print(f"lab: settings in {lab.layout.dir / 'ccfd.toml'}, addresses in {lab.layout.dir / 'env'}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from tests.lab.lab import take_down

    take_down(arguments.dir)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from tests.lab.status import look

    status = 0
    for name, trouble in look(_layout(arguments.dir)):
        print(
            f"{'down' if trouble else 'up':5}{name}{': ' if trouble else ''}{trouble}", flush=True
        )
        status |= bool(trouble)
    # Threads may hang on a stopped daemon: they must not keep the process.
    os._exit(status)


def _exec(arguments: argparse.Namespace) -> int:
    from tests.lab.namespaces import inside

    layout = _layout(arguments.dir)
    if arguments.place not in layout.places:
        raise LabError(f"no {arguments.place!r} here: there are {', '.join(layout.places)}")
    command = inside(layout, arguments.place, _words(arguments))
    os.execvp(command[0], command)


def _guest(arguments: argparse.Namespace) -> int:
    from tests.lab.agent import run_in_guest

    return run_in_guest(
        _layout(arguments.dir),
        arguments.vm,
        _words(arguments),
        arguments.answer_timeout,
        arguments.timeout,
    )


def _layout(folder: Path) -> Layout:
    layout = load(folder)
    if layout is None:
        raise LabError(f"there is no lab in {folder}")
    return layout


def _words(arguments: argparse.Namespace) -> list[str]:
    words: list[str] = arguments.argv
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise LabError("say which command to run, after --")
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--dir", type=Path, required=True, help="the lab's folder")
        command.set_defaults(command=function)
        return command

    up = add("up", _up, "raise a testbed")
    up.add_argument("--hosts", type=int, default=2, help="how many compute hosts (2)")
    add("status", _status, "tell what runs; exit status 0 when all does")
    add("down", _down, "remove every trace of the testbed")
    become = add("exec", _exec, "become a command inside h1, node, outside, services, …")
    become.add_argument("place")
    become.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    guest = add("guest", _guest, "run a command inside a VM that ccfd made")
    guest.add_argument(
        "--answer-timeout", type=float, default=_ANSWER_TIMEOUT, help="seconds to answer at all"
    )
    guest.add_argument(
        "--timeout", type=float, default=_TOTAL_TIMEOUT, help="seconds for the command to end"
    )
    guest.add_argument("vm", help="the VM's UUID")
    guest.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    return parser


if __name__ == "__main__":
    sys.exit(main())
