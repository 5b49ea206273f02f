"""Recovery's two paths: what hosts tell that the database lacks, and making rows of it."""

from typing import Any, Protocol

from aiohttp import web

from ccfd.http import access
from ccfd.http.api import answer


class Recovering(Protocol):
    """Who makes rows of what hosts tell."""

    async def plan(self) -> dict[str, Any]:
        """Return what would be made."""

    async def apply(self) -> dict[str, Any]:
        """Make it; return what was made."""


def routes(recovery: Recovering) -> list[web.RouteDef]:
    """List the paths that the API serves for *recovery*."""

    async def get(_request: web.Request) -> web.Response:
        """Say what of the database could be made again from what hosts hold."""
        return answer(await recovery.plan())

    async def post(request: web.Request) -> web.Response:
        """Make again what of the database hosts still tell."""
        if request[access.REQUEST_ROLE] != "operator":
            raise web.HTTPForbidden(reason="only an operator may have the database made again")
        return answer(await recovery.apply())

    return [web.get("/v1/recover", get), web.post("/v1/recover", post)]
