"""The story of `subnet.create`, `subnet.create_success` and `subnet.delete`.

Each is decided, and done, in one transaction: nothing outside the database changes.
"""

from ccfd.ipam import subnets
from ccfd.requests.events import SubnetCreate, SubnetOwner
from ccfd.settings import Settings
from ccfd.store.database import Transaction
from ccfd.store.outbox import timestamp
from ccfd.workflow.handler import Done, Handler


class CreateSubnet(Handler[SubnetCreate, None]):
    """Reserve a subnet for a while, so that a portal can show it before the slice is made."""

    event = "subnet.create"
    body = SubnetCreate

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def key(self, body: SubnetCreate, transaction: Transaction) -> str:
        """Return the owner's key, which is the slice's."""
        return f"slice:{body.owner}"

    async def decide(self, body: SubnetCreate, transaction: Transaction) -> Done:
        """Reserve the lowest free place."""
        row = await subnets.reserve(
            body.owner,
            body.ipcount,
            body.timeout or self._settings.ipam.timeout,
            body.island or "default",
            transaction,
        )
        return Done(
            {
                "owner": row.owner,
                "subnet": subnets.gateway_of(row),
                "cidr": subnets.cidr_of(row),
                "expires_at": timestamp(row.expires_at),
            }
        )


class ConfirmSubnet(Handler[SubnetOwner, None]):
    """Make a reservation lasting."""

    event = "subnet.create_success"
    body = SubnetOwner

    async def key(self, body: SubnetOwner, transaction: Transaction) -> str:
        """Return the owner's key, which is the slice's."""
        return f"slice:{body.owner}"

    async def decide(self, body: SubnetOwner, transaction: Transaction) -> Done:
        """Confirm it, or say that it has expired."""
        await subnets.confirm(body.owner, transaction)
        return Done({"owner": body.owner, "confirmed": True})


class DeleteSubnet(Handler[SubnetOwner, None]):
    """Give a subnet back."""

    event = "subnet.delete"
    body = SubnetOwner

    async def key(self, body: SubnetOwner, transaction: Transaction) -> str:
        """Return the owner's key, which is the slice's."""
        return f"slice:{body.owner}"

    async def decide(self, body: SubnetOwner, transaction: Transaction) -> Done:
        """Delete it unless something lives in it."""
        await subnets.remove(body.owner, transaction)
        return Done({"owner": body.owner, "deleted": True})
