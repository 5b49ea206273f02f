"""The story of `host.drain` and `host.activate`."""

from typing import Any

from sqlalchemy import select, update

from ccfd import documents
from ccfd.errors import Refused
from ccfd.requests.events import HostName
from ccfd.sched.claims import state_of
from ccfd.store import outbox
from ccfd.store.database import Transaction
from ccfd.store.tables import host
from ccfd.workflow.handler import Done, Handler


class _Draining(Handler[HostName, None]):
    """Set whether a host gets new VMs; those that are there stay."""

    body = HostName
    draining: bool

    async def key(self, body: HostName, transaction: Transaction) -> str:
        """Return the host's key."""
        return f"host:{body.host}"

    async def decide(self, body: HostName, transaction: Transaction) -> Done:
        """Note it."""
        mine = (host.c.name == body.host, host.c.configured)
        row = await transaction.one(select(host).where(*mine).with_for_update())
        if row is None:
            raise Refused("host_not_found", f"no [[host]] is called {body.host}")
        await transaction.execute(update(host).where(*mine).values(draining=self.draining))
        before = state_of(up=row.up, draining=row.draining)
        after = state_of(up=row.up, draining=self.draining)
        if before != after:
            change = {"host": body.host, "from": before, "to": after}
            await outbox.notice(transaction, "host.state_changed", **change)
        document: dict[str, Any] = await documents.COLLECTIONS["hosts"].one(body.host, transaction)
        return Done(document)


class DrainHost(_Draining):
    """Give a host no new VMs."""

    event = "host.drain"
    draining = True


class ActivateHost(_Draining):
    """Give a host VMs again."""

    event = "host.activate"
    draining = False
