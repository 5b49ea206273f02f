"""Who may do what: tokens and roles."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from ccfd.settings import Token

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
CONSOLE = "/console/"
"""What begins so is for browsers: a ticket opens a console, and what else is there is public."""
PORTAL_EVENTS = ("subnet.", "slice.", "vm.", "controller.")
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ROLE = web.RequestKey("ccfd_role", str)
REQUEST_CALLER = web.RequestKey("ccfd_caller", str)


def is_open(path: str) -> bool:
    """Tell whether *path* is served without a token."""
    return path in OPEN or path.startswith(CONSOLE)


def caller_of(authorization: str | None, tokens: Sequence[Token]) -> Token | None:
    """Return whose bearer token it is, or None."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return None
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    found = None
    for known in tokens:
        # Every digest is compared, each in constant time.
        if hmac.compare_digest(known.sha256, digest):
            found = known
    return found


def may_send(role: str, event: str) -> bool:
    """Tell whether *role* may send the event *event*."""
    if role == "operator":
        return True
    return role == "portal" and event.startswith(PORTAL_EVENTS)
