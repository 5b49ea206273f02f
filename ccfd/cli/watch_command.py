"""`ccfctl watch`: results and notices as they come."""

import asyncio
import json
from typing import TYPE_CHECKING

import typer

from ccfd.cli.options import SliceFilter
from ccfd.cli.session import session

if TYPE_CHECKING:
    from ccfd.cli.client import Client, Feed
    from ccfd.cli.sse import Message

LONGEST_PAUSE = 10.0


def watch(context: typer.Context, slice_: SliceFilter = None) -> None:
    """Follow results and notices until interrupted.

    A lost connection is made again. With --json, each is a line: {"id", "event", "data"};
    progress has no id.
    """
    here = session(context)

    async def follow(client: "Client") -> None:
        from ccfd.cli.client import Feed

        feed = Feed(client, slice_)
        try:
            await feed.open()
            while True:
                await _show_until_lost(feed, as_json=here.as_json)
                await _open_again(feed)
        finally:
            feed.close()

    here.ask(follow)


async def _show_until_lost(feed: "Feed", *, as_json: bool) -> None:
    from ccfd.cli.client import Unreachable
    from ccfd.cli.output import warn

    try:
        while True:
            for message in await feed.read():
                _show(message, as_json=as_json)
    except Unreachable as exc:
        warn(f"{exc}; connecting again")


async def _open_again(feed: "Feed") -> None:
    from ccfd.cli.client import Answered, Unreachable

    pause = 0.5
    while True:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        try:
            await feed.open()
        except Unreachable:
            continue
        except Answered as exc:
            if exc.status < 500:
                raise
        else:
            return


def _show(message: "Message", *, as_json: bool) -> None:
    from ccfd.cli import sheets
    from ccfd.cli.output import write_json

    body = json.loads(message.data)
    if as_json:
        identity = int(message.id) if message.id and message.id.isdecimal() else message.id
        write_json({"id": identity, "event": message.name, "data": body}, line=True)
    else:
        print(sheets.event(message.name, body), flush=True)
