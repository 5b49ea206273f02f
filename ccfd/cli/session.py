"""What every command of ccfctl does: call, send and wait, print, choose the exit status."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import quote
from uuid import uuid4

import typer

if TYPE_CHECKING:
    from ccfd.cli.client import Client, Document, Target
    from ccfd.cli.events import Event
    from ccfd.cli.sheets import Block

T = TypeVar("T")

FAILED = 1
UNREACHABLE = 3
INTERRUPTED = 130
"""What a shell gives a program that SIGINT ended: 128 and the signal's number."""


@dataclass(slots=True)
class Session:
    """The global options, and what they mean for a command's work.

    Modules that take long to import (aiohttp, rich) are imported where they are used, so that
    `--help` and usage errors come at once.
    """

    target: "Callable[[], Target]"
    as_json: bool
    within: float | None = None
    """Seconds that an answer may take, where it is not as long as always."""
    current: "Event | None" = field(default=None)

    def ask(self, work: "Callable[[Client], Awaitable[T]]") -> T:
        """Run *work* with a client; end the program where ccfd refuses or is not reached."""
        from ccfd.cli.client import ANSWER_WITHIN, Answered, Client, Unreachable
        from ccfd.cli.output import warn

        async def run() -> T:
            async with Client(self.target(), within=self.within or ANSWER_WITHIN) as client:
                return await work(client)

        try:
            return asyncio.run(run())
        except Unreachable as exc:
            warn(f"ccfctl: {exc}")
            raise typer.Exit(UNREACHABLE) from exc
        except Answered as exc:
            self.fail(exc.error)
        except KeyboardInterrupt:
            self._interrupted()

    def show(
        self, path: str, draw: "Callable[[Document], Iterable[Block]]", **query: str | None
    ) -> None:
        """Print the document at *path*."""
        self.tell(self.ask(lambda client: client.get(path, **query)), draw)

    def act(self, path: str, draw: "Callable[[Document], Iterable[Block]]") -> None:
        """Call for an action, and print the document that it answers."""
        self.tell(self.ask(lambda client: client.post(path, {})), draw)

    def remove(self, path: str, draw: "Callable[[Document], Iterable[Block]]") -> None:
        """Have what is at *path* ended, and print the document that says so."""
        self.tell(self.ask(lambda client: client.delete(path)), draw)

    def tell(self, document: "Document", draw: "Callable[[Document], Iterable[Block]]") -> None:
        """Print a document, for people or programs."""
        from ccfd.cli.output import show, write_json

        if self.as_json:
            write_json(document)
        else:
            show(draw(document))

    def list(self, kind: str, **query: str | None) -> None:
        """Print all of a list."""
        from ccfd.cli import sheets
        from ccfd.cli.output import show, write_json

        items = self.ask(lambda client: client.items(f"/v1/{kind}", **query))
        if self.as_json:
            write_json({"items": items, "next": None})
        else:
            show(sheets.listing(kind, items))

    def send(self, kind: str, data: "Document", *, wait: bool) -> None:
        """Send an event without the fields that are None; see `send_whole`."""
        given = {name: value for name, value in data.items() if value is not None}
        self.send_whole(kind, given, wait=wait)

    def send_whole(
        self, kind: str, data: "Document", *, wait: bool, request_id: str | None = None
    ) -> None:
        """Send an event and follow it to its end; end the program if it does not succeed."""
        from ccfd.cli import events

        event = self.current = events.Event(request_id or str(uuid4()), kind, data)
        if not wait:
            self._sent(event, self.ask(lambda client: events.send(client, event)))
        else:
            self._ended(self.ask(self._follow))

    async def _follow(self, client: "Client") -> "Document":
        from ccfd.cli import events
        from ccfd.cli.output import Display, Lines

        event = self.current
        assert event is not None
        if self.as_json:
            return await events.carry_out(client, event, events.Quiet(), time.monotonic)
        print(f"request {event.id}", flush=True)
        screen: Display | Lines = Display(event.type) if sys.stdout.isatty() else Lines()
        with screen:
            return await events.carry_out(client, event, screen, time.monotonic)

    def _sent(self, event: "Event", answer: "Document") -> None:
        from ccfd.cli.output import write_json

        if answer.get("outcome") == "failed":
            self._ended(answer)
        elif self.as_json:
            write_json({"request_id": event.id, "type": event.type})
        else:
            print(event.id)

    def _ended(self, terminal: "Document") -> None:
        from ccfd.cli import sheets
        from ccfd.cli.output import show, tell_failure, write_json

        succeeded = terminal["outcome"] == "succeeded"
        if self.as_json:
            write_json(terminal)
        elif succeeded:
            print("succeeded")
            show(sheets.result(terminal.get("result") or {}))
        else:
            tell_failure(terminal.get("error") or {}, compensated=terminal.get("compensated"))
        if not succeeded:
            raise typer.Exit(FAILED)

    def fail(self, error: "Document") -> NoReturn:
        """Tell of an error and end the program."""
        from ccfd.cli.output import tell_failure, write_json

        if self.as_json:
            write_json({"error": error})
        else:
            tell_failure(error)
        raise typer.Exit(FAILED)

    def _interrupted(self) -> NoReturn:
        from ccfd.cli.events import goes_on
        from ccfd.cli.output import warn

        if self.current is not None:
            warn(goes_on(self.current.id) if self.current.sent else "nothing was sent")
        raise typer.Exit(INTERRUPTED)


def session(context: typer.Context) -> Session:
    """Return the session of a command's context."""
    found: Session = context.obj
    return found


def segment(name: str) -> str:
    """Return *name* as one segment of a path; whatever a person typed, it stays one."""
    return quote(name, safe="")
