"""What the database knows of consoles: tickets that were given out, sessions that are open.

A ticket works on any ccfd of the database, once: one UPDATE takes it. A session's row is looked at
by whoever serves it, so that any ccfd can end it.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import and_, delete, func, or_, select, update

from ccfd.console import tickets
from ccfd.console.closing import NOT_RUNNING, TOO_MANY, UNKNOWN, USED, Close, Closed
from ccfd.console.tickets import Kind, Ticket
from ccfd.errors import Refused
from ccfd.store import tables
from ccfd.store.database import Transaction

TOPIC = "console"
"""Woken when a session is to end."""
SEEN_EVERY = 20.0
"""Seconds between two signs of life of a session's row."""
DEAD_AFTER = timedelta(seconds=90)
"""A session whose row is older than this died with its ccfd."""
REMEMBERED = timedelta(hours=1)
"""For so long a ticket that opens nothing any more is told why."""

console = tables.console
_OPEN = and_(console.c.opened_at.is_not(None), console.c.closed_at.is_(None))


@dataclass(frozen=True, slots=True)
class Issued:
    """A new ticket and the last moment at which it opens its console."""

    ticket: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Opened:
    """A console that a ticket has opened. `host` is where its VM runs."""

    id: str
    vm: str
    name: str
    slice: str
    host: str
    kind: Kind
    view_only: bool
    issued_to: str


async def issue(
    vm: str, kind: Kind, transaction: Transaction, *, view_only: bool, to: str, lifetime: float
) -> Issued:
    """Give out a ticket for a VM's console, good for *lifetime* seconds; *to* is who asked.

    Raises `Refused`: `vm_not_found`, `invalid_state` for a VM without a screen.
    """
    now = transaction.now
    # Nobody asks about these any more; so no flood of calls fills the table for long.
    await transaction.execute(
        delete(console).where(
            console.c.expires_at < now - REMEMBERED,
            or_(console.c.opened_at.is_(None), console.c.closed_at < now - REMEMBERED),
        )
    )
    row = await transaction.one(
        select(tables.vm.c.slice, tables.vm.c.state, tables.vm.c.host).where(tables.vm.c.id == vm)
    )
    if row is None:
        raise Refused("vm_not_found", f"there is no VM {vm!r}")
    if row.state not in tickets.SHOWN or row.host is None:
        raise Refused("invalid_state", f"the VM {vm} is {row.state}: start it to see its console")
    expires_at = now + timedelta(seconds=lifetime)
    about = {"vm": vm, "slice": row.slice, "kind": kind, "view_only": view_only, "issued_to": to}
    return Issued(await _write(transaction, expires_at=expires_at, **about), expires_at)


async def follow(opened: Opened, transaction: Transaction, *, lifetime: float) -> str:
    """Give out the ticket that takes *opened* up again, should it be lost.

    It is good for *lifetime* seconds after the last sign of life of *opened* (see `seen`).
    """
    return await _write(
        transaction,
        expires_at=transaction.now + _followed_for(lifetime),
        follows=opened.id,
        vm=opened.vm,
        slice=opened.slice,
        kind=opened.kind,
        view_only=opened.view_only,
        issued_to=opened.issued_to,
    )


def _followed_for(lifetime: float) -> timedelta:
    return timedelta(seconds=lifetime + SEEN_EVERY)


async def _write(transaction: Transaction, **values: object) -> str:
    ticket = secrets.token_urlsafe(tickets.BYTES)
    await transaction.execute(
        console.insert().values(id=str(uuid4()), digest=tickets.digest(ticket), **values)
    )
    return ticket


async def open_with(ticket: str, transaction: Transaction, *, remote: str, most: int) -> Opened:
    """Take *ticket* and open its console, where its VM has fewer than *most* open.

    Raises `Closed`, saying why not; then the ticket is not taken.
    """
    if len(ticket) != tickets.LENGTH:
        raise Closed(UNKNOWN)
    digest, now = tickets.digest(ticket), transaction.now
    taken = await transaction.one(
        update(console)
        .where(
            console.c.digest == digest,
            console.c.opened_at.is_(None),
            ~console.c.revoked,
            console.c.expires_at > now,
        )
        .values(opened_at=now, opened_from=remote, seen_at=now)
        .returning(console)
    )
    if taken is None:
        raise Closed(await _why_not(digest, transaction))
    vm = await transaction.one(
        select(tables.vm.c.name, tables.vm.c.state, tables.vm.c.host).where(
            tables.vm.c.id == taken.vm
        )
    )
    why = tickets.why_closed(vm.state if vm else None, revoked=False)
    if why is not None or vm is None:
        raise Closed(why or UNKNOWN)
    if vm.state not in tickets.SHOWN or vm.host is None:
        raise Closed(NOT_RUNNING)
    others = await transaction.scalar(
        select(func.count())
        .select_from(console)
        .where(_OPEN, console.c.vm == taken.vm, console.c.seen_at > now - DEAD_AFTER)
    )
    if others > most:
        raise Closed(TOO_MANY)
    return Opened(
        id=taken.id,
        vm=taken.vm,
        name=vm.name,
        slice=taken.slice,
        host=vm.host,
        kind=taken.kind,
        view_only=taken.view_only,
        issued_to=taken.issued_to,
    )


async def _why_not(digest: str, transaction: Transaction) -> Close:
    row = await transaction.one(select(console).where(console.c.digest == digest))
    known = None if row is None else Ticket(row.expires_at, row.opened_at, row.revoked)
    # One that was good a moment ago and is not taken now was taken by somebody else.
    return tickets.why_not(known, transaction.now) or USED


async def endings(ids: Sequence[str], transaction: Transaction) -> Mapping[str, Close]:
    """Say which of the open consoles *ids* are to end, and why."""
    vm = tables.vm
    rows = await transaction.all(
        select(console.c.id, console.c.revoked, vm.c.state)
        .select_from(console.outerjoin(vm, vm.c.id == console.c.vm))
        .where(console.c.id.in_(ids))
    )
    told = {row.id: tickets.why_closed(row.state, revoked=row.revoked) for row in rows}
    return {name: why for name, why in told.items() if why is not None}


async def is_up(host: str, transaction: Transaction) -> bool:
    """Tell whether *host* answers, as far as is known."""
    return bool(
        await transaction.scalar(select(tables.host.c.up).where(tables.host.c.name == host))
    )


async def seen(ids: Sequence[str], transaction: Transaction, *, lifetime: float) -> None:
    """Give a sign of life of the open consoles *ids*; close those of dead ccfds."""
    now = transaction.now
    await transaction.execute(update(console).where(console.c.id.in_(ids)).values(seen_at=now))
    await transaction.execute(
        update(console)
        .where(console.c.follows.in_(ids), console.c.opened_at.is_(None))
        .values(expires_at=now + _followed_for(lifetime))
    )
    await transaction.execute(
        update(console).where(_OPEN, console.c.seen_at < now - DEAD_AFTER).values(closed_at=now)
    )


async def closed(ids: Collection[str], transaction: Transaction) -> None:
    """Note that consoles are closed."""
    await transaction.execute(
        update(console).where(console.c.id.in_(ids)).values(closed_at=transaction.now)
    )


async def revoke(name: str, transaction: Transaction) -> None:
    """Have an open console closed, whichever ccfd serves it. Raises `Refused`."""
    found = await transaction.scalar(
        update(console)
        .where(console.c.id == name, _OPEN)
        .values(revoked=True)
        .returning(console.c.id)
    )
    if found is None:
        raise Refused("console_not_found", f"there is no open console {name!r}")
    await transaction.execute(
        update(console)
        .where(console.c.follows == name, console.c.opened_at.is_(None))
        .values(revoked=True)
    )
    transaction.wake(TOPIC)
