"""Who may do what: tokens and roles."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from ccfd.settings import Role, Token

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
PORTAL_EVENTS = ("subnet.", "slice.", "vm.", "controller.")
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ROLE = web.RequestKey("ccfd_role", str)


def role_of(authorization: str | None, tokens: Sequence[Token]) -> Role | None:
    """Return the role of a bearer token, or None."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return None
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    found = None
    for known in tokens:
        # Every digest is compared, each in constant time.
        if hmac.compare_digest(known.sha256, digest):
            found = known.role
    return found


def may_send(role: str, event: str) -> bool:
    """Tell whether *role* may send the event *event*."""
    if role == "operator":
        return True
    return role == "portal" and event.startswith(PORTAL_EVENTS)
