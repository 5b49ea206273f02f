"""Addresses for other Python programs: the calls that users of the old `ipam` know.

Each is done in one transaction on ccfd's database, so it can stand beside a running daemon; what
it promises is in docs/events.md. Errors are of `ccfd.errors`.
"""

import ipaddress
from datetime import timedelta

from sqlalchemy import select

from ccfd import settings
from ccfd.errors import Refused
from ccfd.ipam import control, networks, quick, subnets
from ccfd.requests.decode import validated
from ccfd.requests.events import SubnetCreate, SubnetOwner
from ccfd.store.database import Database, Transaction
from ccfd.store.tables import vm

TIMEOUT = 120
ISLAND = "default"


class Ipam:
    """Subnets and addresses. `async with Ipam.at(url) as ipam`, or over a `Database` of yours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shared = quick.Shared(database)

    @classmethod
    def at(cls, url: str) -> "Ipam":
        """Open the database at *url*, as in `[database] url`."""
        return cls(Database(settings.Database(url=url)))

    async def __aenter__(self) -> "Ipam":
        """Go on."""
        return self

    async def __aexit__(self, *_raised: object) -> None:
        """Close the database."""
        await self._database.close()

    async def create_subnet(
        self,
        owner: str,
        ipcount: int = 64,
        timeout: int = TIMEOUT,  # noqa: ASYNC109 - of the reservation, by its known name
        island: str = ISLAND,
    ) -> str:
        """Reserve *ipcount* addresses (64, 32, 16 or 8) for *owner* for *timeout* seconds.

        Returns the first usable address with its prefix: `"10.0.0.1/26"`. Raises `Refused`:
        `invalid_ipcount`, `invalid_message`, `subnet_exists`, `network_exhausted`.
        """
        body = {"owner": owner, "ipcount": ipcount, "timeout": timeout, "island": island}
        validated(SubnetCreate, body)
        if not self._database.is_sqlite:
            expires_at = self._database.clock() + timedelta(seconds=timeout)
            wish = quick.Wish(owner, ipcount, timeout, expires_at, island)
            at_once = await self._shared.reserve(wish)
            if at_once is not None:
                return at_once
        row = await self._database.run(
            lambda tx: subnets.reserve(owner, ipcount, timeout, island, tx)
        )
        return subnets.gateway_of(row)

    async def subnet_create_success(self, owner: str) -> bool:
        """Make the owner's reservation lasting. Returns True.

        Raises `Refused`: `subnet_not_found`, `subnet_expired`.
        """
        validated(SubnetOwner, {"owner": owner})
        await self._database.run(lambda tx: subnets.confirm(owner, tx))
        return True

    async def delete_subnet(self, owner: str) -> bool:
        """Give the owner's subnet back. Returns True.

        Raises `Refused`: `subnet_not_found`, `subnet_in_use` (a slice or an address is in it).
        """
        validated(SubnetOwner, {"owner": owner})
        await self._database.run(lambda tx: subnets.remove(owner, tx))
        return True

    async def allocate_ip(self, owner: str) -> str:
        """Take the lowest free address of the owner's confirmed subnet.

        Raises `Refused`: `subnet_not_found`, `subnet_expired`, `address_exhausted`.
        """
        validated(SubnetOwner, {"owner": owner})
        if not self._database.is_sqlite:
            at_once = await self._shared.allocate(quick.Holder(owner, owner))
            if at_once is not None:
                return at_once
        return await self._database.run(lambda tx: subnets.allocate(owner, owner, tx))

    async def release_ip(self, ip: str) -> bool:
        """Give an address that `allocate_ip` took back. Returns True.

        Raises `Refused` (`invalid_state`): it is not taken, or by a VM, which keeps it.
        """
        number = _number(ip)

        async def give_back(transaction: Transaction) -> None:
            holder = await transaction.scalar(
                select(vm.c.id).where(vm.c.ip == ip, vm.c.state != "failed")
            )
            if holder is not None:
                raise Refused("invalid_state", f"{ip} is the VM {holder}'s: delete it")
            if not await subnets.release_address(ip, transaction):
                raise _not_taken(number)

        await self._database.run(give_back)
        return True

    async def allocate_ip_for_controller(self, island: str = ISLAND) -> str:
        """Take the lowest free address of the type 0 networks of *island*.

        Raises `Refused` (`address_exhausted`).
        """
        return await self._database.run(lambda tx: networks.take_address(0, island, island, tx))

    async def release_ip_for_controller(self, ip: str) -> bool:
        """Give a controller's address back. Returns True.

        Raises `Refused` (`invalid_state`): it is not taken.
        """
        number = _number(ip)
        if not await self._database.run(lambda tx: control.give_back(ip, tx)):
            raise _not_taken(number)
        return True


def _number(ip: str) -> int:
    try:
        return int(ipaddress.IPv4Address(ip))
    except ValueError as exc:
        raise Refused("invalid_message", f"{ip!r} is no IPv4 address") from exc


def _not_taken(number: int) -> Refused:
    return Refused("invalid_state", f"{ipaddress.IPv4Address(number)} is not taken")
