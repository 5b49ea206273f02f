"""The reconciler's two paths: what differs, and putting it right at once."""

from typing import Any, Protocol

from aiohttp import web

from ccfd.http import access
from ccfd.http.api import answer


class Reconciling(Protocol):
    """Who compares hosts with the database."""

    async def plan(self) -> dict[str, Any]:
        """Return what differs."""

    async def apply(self) -> dict[str, Any]:
        """Put it right; return what differed."""


def routes(reconciler: Reconciling) -> list[web.RouteDef]:
    """List the paths that the API serves for *reconciler*."""

    async def get(_request: web.Request) -> web.Response:
        """Compare hosts with the database; change nothing."""
        return answer(await reconciler.plan())

    async def post(request: web.Request) -> web.Response:
        """Put right what differs between hosts and the database."""
        if request[access.REQUEST_ROLE] != "operator":
            raise web.HTTPForbidden(reason="only an operator may have differences put right")
        return answer(await reconciler.apply())

    return [web.get("/v1/reconcile", get), web.post("/v1/reconcile", post)]
