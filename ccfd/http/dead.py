"""The paths of dead letters."""

from typing import Any, Protocol

from aiohttp import web

from ccfd.errors import Refused
from ccfd.http import access
from ccfd.http.api import MAX_LIMIT, answer, number


class Letters(Protocol):
    """Who knows the letters."""

    async def page(self, limit: int, after: int) -> dict[str, Any]:
        """Return some of them."""

    async def one(self, message_id: str) -> dict[str, Any]:
        """Return one with its body."""

    async def requeue(self, message_id: str) -> str:
        """Store its message again; return the new request's id."""


def routes(letters: Letters) -> list[web.RouteDef]:
    """List the paths that the API serves for *letters*."""

    async def page(request: web.Request) -> web.Response:
        """List dead letters, oldest first, page by page."""
        after = request.query.get("after", "0")
        if not after.isdecimal():
            raise Refused("invalid_message", "after: not a cursor of this list")
        limit = int(number(request, "limit", 100, MAX_LIMIT, least=1))
        return answer(await letters.page(limit, int(after)))

    async def one(request: web.Request) -> web.Response:
        """Describe a dead letter, its body included."""
        return answer(await letters.one(request.match_info["name"]))

    async def requeue(request: web.Request) -> web.Response:
        """Send a dead letter's message again, under a new id."""
        if request[access.REQUEST_ROLE] != "operator":
            raise web.HTTPForbidden(reason="only an operator may have messages sent again")
        fresh = await letters.requeue(request.match_info["name"])
        return answer({"request_id": fresh}, 202)

    return [
        web.get("/v1/dead", page),
        web.get("/v1/dead/{name}", one),
        web.post("/v1/dead/{name}/requeue", requeue),
    ]
