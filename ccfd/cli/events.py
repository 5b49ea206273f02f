"""Carries a request out: subscribes, sends, follows it to its end."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ccfd.cli.board import of_progress
from ccfd.cli.client import Answered, Client, Document, Feed, Unreachable

LOOK_EVERY = 3.0
"""Seconds between two looks at the request, should its results not come by the stream."""
PATIENCE = 60.0
"""Seconds that ccfd may be away (a restart, say) while a request is awaited."""
TERMINAL = frozenset({"succeeded", "failed"})
ENDED = {"succeeded": "succeeded", "failed": "failed", "stuck": "failed"}


@dataclass(slots=True)
class Event:
    """A request to be made. `sent` is true from the moment that it may have been stored."""

    id: str
    type: str
    data: Document
    sent: bool = False

    @property
    def slice(self) -> str | None:
        """The slice whose stream carries its results; an owner is a slice's name."""
        about = self.data.get("slice") or self.data.get("owner")
        return about if isinstance(about, str) else None

    def document(self) -> Document:
        """Return what `POST /v1/events` wants."""
        return {"type": self.type, "id": self.id, "data": self.data}


class Screen(Protocol):
    """Who shows what happens."""

    def step(self, index: int, of: int, name: str, status: str) -> None:
        """Show that step number *index* (from 1) of *of* has become *status*."""

    def note(self, text: str) -> None:
        """Show a remark."""


class Quiet:
    """Shows nothing: for programs."""

    def step(self, index: int, of: int, name: str, status: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


async def send(client: Client, event: Event) -> Document:
    """Send *event*; return its terminal result if it ended at once, else what ccfd answered.

    A refusal is a result, too. Raises `Unreachable`, and `Answered` where it says nothing of the
    request (who are you, not now, …).
    """
    event.sent = True
    try:
        return await client.post("/v1/events", event.document())
    except Answered as exc:
        if exc.status in (400, 404, 409) and not str(exc.error.get("code")).startswith("http_"):
            return failed(event, exc.error)
        event.sent = False
        raise
    except Unreachable as exc:
        event.sent = exc.asked
        if exc.asked:
            text = f"{exc}\nthe request may have been stored: ccfctl request show {event.id}"
            raise Unreachable(text, asked=True) from exc
        raise


async def carry_out(
    client: Client, event: Event, screen: Screen, clock: Callable[[], float]
) -> Document:
    """Send *event* and return its terminal result, showing what happens meanwhile."""
    feed = Feed(client, event.slice)
    try:
        # Subscribed first, so that nothing is missed.
        await feed.open()
    except Answered as exc:
        if exc.status in (401, 403):
            raise
        # No stream to be had: looking at the request does as well.
        screen.note("no event stream: asking every few seconds")
    try:
        answer = await send(client, event)
        if answer.get("outcome") in TERMINAL:
            return answer
        return await _Wait(client, event, feed, screen, clock).terminal()
    finally:
        feed.close()


def failed(event: Event, error: Document) -> Document:
    """Return a refusal in the shape of a terminal result."""
    return {
        "type": event.type,
        "outcome": "failed",
        "request_id": event.id,
        "error": error,
        "compensated": True,
    }


@dataclass(slots=True)
class _Wait:
    """Waiting for one request."""

    client: Client
    event: Event
    feed: Feed
    screen: Screen
    clock: Callable[[], float]

    async def terminal(self) -> Document:
        seen = self.clock()
        away = False
        while True:
            try:
                found = await self._follow()
                if found is None:
                    found = await self._look()
                seen, away = self.clock(), False
            except Unreachable as exc:
                if self.clock() - seen > PATIENCE:
                    raise Unreachable(f"{exc}\n{goes_on(self.event.id)}") from exc
                if not away:
                    self.screen.note("ccfd does not answer; the request is kept, waiting for it")
                away = True
                found = None
                await asyncio.sleep(1.0)
            if found is not None:
                return found

    async def _follow(self) -> Document | None:
        """Read the stream for a while; return the terminal result if it came."""
        until = self.clock() + LOOK_EVERY
        while (left := until - self.clock()) > 0:
            if not self.feed.is_open:
                await self._open_again(left)
                return None
            for message in await self.feed.read(left):
                found = self._take(message.data)
                if found is not None:
                    return found
        return None

    async def _open_again(self, left: float) -> None:
        try:
            await self.feed.open()
        except Answered:
            await asyncio.sleep(min(left, 1.0))

    def _take(self, text: str) -> Document | None:
        body: Any = json.loads(text)
        if body.get("request_id") != self.event.id:
            return None
        if body.get("outcome") == "progress":
            self.screen.step(*of_progress(body))
        found: Document = body
        return found if body.get("outcome") in TERMINAL else None

    async def _look(self) -> Document | None:
        """Ask for the request itself."""
        try:
            request = await self.client.get(f"/v1/requests/{self.event.id}")
        except Answered as exc:
            if exc.status in (500, 503):
                raise Unreachable(str(exc)) from exc
            raise
        if not self.feed.is_open:
            steps = request.get("steps") or []
            for index, step in enumerate(steps, 1):
                if step["state"] != "pending":
                    self.screen.step(index, len(steps), step["name"], step["state"])
        return ended(request)


def ended(request: Document) -> Document | None:
    """Return the terminal result that a request's document tells of, if it has ended."""
    outcome = ENDED.get(str(request.get("state")))
    if outcome is None:
        return None
    kept = ("type", "request_id", "workflow_id", "result", "error", "compensated")
    return {"outcome": outcome, **{name: request[name] for name in kept if name in request}}


def goes_on(request_id: str) -> str:
    """Say how to find the request again."""
    return f"the request goes on without you; look at it with: ccfctl request show {request_id}"
