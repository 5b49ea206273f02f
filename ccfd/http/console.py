"""The paths of consoles: tickets, open sessions, the websocket."""

from collections.abc import Collection
from typing import Any, Protocol, get_args
from urllib.parse import quote, urlsplit

from aiohttp import web

from ccfd.console.ledger import Issued
from ccfd.console.relay import Viewer
from ccfd.console.tickets import Kind
from ccfd.errors import Refused
from ccfd.http import access
from ccfd.http.api import answer
from ccfd.requests.decode import json_object
from ccfd.settings import Settings
from ccfd.store.outbox import timestamp

ROLES = frozenset({"portal", "operator"})
LONGEST_REMOTE = 200
"""Characters kept of what a proxy says of a viewer's address."""


class Served(Protocol):
    """Who serves consoles."""

    async def issue(self, vm: str, kind: Kind, *, view_only: bool, to: str) -> Issued:
        """Give out a ticket."""

    async def revoke(self, name: str, by: str) -> None:
        """End an open console."""

    async def serve(self, viewer: Viewer, ticket: str, remote: str) -> None:
        """Relay a console to its end."""


def origin(url: str) -> str:
    """Return the origin of *url* (RFC 6454): scheme, host, and a port that is not the usual one."""
    parts = urlsplit(url.lower())
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def is_welcome(claimed: str | None, allowed: Collection[str]) -> bool:
    """Tell whether a page of the origin *claimed* may open consoles.

    Browsers always tell; what tells nothing is no browser, and has no user to be deceived.
    """
    if claimed is None:
        return True
    try:
        return origin(claimed) in allowed
    except ValueError:
        return False


def routes(consoles: Served, settings: Settings) -> list[web.RouteDef]:
    """List the paths that the API serves for *consoles*."""
    public = settings.http.public_url.rstrip("/")
    allowed = {origin(public), *map(origin, settings.console.origins)}

    def allow(request: web.Request) -> None:
        if request[access.REQUEST_ROLE] not in ROLES:
            raise web.HTTPForbidden(reason="only a portal or an operator may open consoles")

    async def issue(request: web.Request) -> web.Response:
        """Give out a ticket that opens the VM's console once."""
        allow(request)
        kind, view_only = _wish(await request.read(), request.query.get("type"))
        vm = request.match_info["name"]
        issued = await consoles.issue(
            vm, kind, view_only=view_only, to=request[access.REQUEST_CALLER]
        )
        more = "&type=serial" if kind == "serial" else ""
        response = answer(
            {
                "url": f"{public}/console/{quote(vm)}?ticket={issued.ticket}{more}",
                "websocket_url": f"ws{public.removeprefix('http')}/console/ws"
                f"?ticket={issued.ticket}",
                "ticket": issued.ticket,
                "expires_at": timestamp(issued.expires_at),
            }
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    async def revoke(request: web.Request) -> web.Response:
        """End an open console."""
        allow(request)
        name = request.match_info["name"]
        await consoles.revoke(name, request[access.REQUEST_CALLER])
        return answer({"console": name, "revoked": True})

    async def websocket(request: web.Request) -> web.StreamResponse:
        """Be the console that a ticket opens, as a websocket."""
        if not is_welcome(request.headers.get("Origin"), allowed):
            raise web.HTTPForbidden(reason="this page may not open consoles: see [console] origins")
        viewer = Viewer(request)
        await viewer.upgrade()
        await consoles.serve(viewer, request.query.get("ticket", ""), _remote(request))
        return viewer.response

    return [
        web.post("/v1/vms/{name}/console", issue),
        web.delete("/v1/consoles/{name}", revoke),
        web.get("/console/ws", websocket),
    ]


def _wish(body: bytes, kind: Any) -> tuple[Kind, bool]:
    """Read what kind of console is wanted, and whether it is only looked at."""
    wish = json_object(body) if body else {}
    kind = wish.pop("type", kind or "vnc")
    view_only = wish.pop("view_only", False)
    if wish:
        raise Refused("invalid_message", f"unknown fields: {', '.join(sorted(wish))}")
    if kind not in get_args(Kind):
        raise Refused("invalid_message", f"type: must be {' or '.join(get_args(Kind))}")
    if not isinstance(view_only, bool):
        raise Refused("invalid_message", "view_only: must be true or false")
    return kind, view_only


def _remote(request: web.Request) -> str:
    """Say where a viewer is; what a proxy claims is marked as such."""
    peer = request.remote or "UNIX socket"
    claimed = request.headers.get("X-Forwarded-For")
    return peer if claimed is None else f"{peer} for {claimed[:LONGEST_REMOTE]}"
