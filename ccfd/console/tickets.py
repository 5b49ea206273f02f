"""What a ticket for a console is, and what it is good for at a moment: pure.

A ticket names nothing: which VM it opens stands in the database, beside the ticket's digest. So
whoever reads the database, or a backup of it, has no ticket.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ccfd.console.closing import DELETED, EXPIRED, NOT_RUNNING, REVOKED, UNKNOWN, USED, Close

BYTES = 32
"""Random bytes of a ticket: 256 bits."""
LENGTH = 43
"""Characters of a ticket: base64 of its bytes, without padding."""
SHOWN = frozenset({"running", "paused"})
"""States of a VM in which it has a screen."""
GOING = frozenset({"running", "paused", "stopping"})
"""States of a VM in which an open console may stay open."""

Kind = Literal["vnc", "serial"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is stored of a ticket."""

    expires_at: datetime
    opened_at: datetime | None
    revoked: bool


def digest(ticket: str) -> str:
    """Return the hex SHA-256 that is stored in a ticket's place."""
    return hashlib.sha256(ticket.encode()).hexdigest()


def why_not(ticket: Ticket | None, now: datetime) -> Close | None:
    """Say why *ticket* opens nothing at the moment *now*; None where it opens."""
    if ticket is None:
        return UNKNOWN
    if ticket.revoked:
        return REVOKED
    if ticket.opened_at is not None:
        return USED
    return EXPIRED if ticket.expires_at <= now else None


def why_closed(state: str | None, *, revoked: bool) -> Close | None:
    """Say why an open console ends, its VM being in *state* (None: gone); None where it stays."""
    if revoked:
        return REVOKED
    if state is None or state == "deleting":
        return DELETED
    return None if state in GOING else NOT_RUNNING
