"""Which address outside a slice's gateway has: one of a network of type 2."""

from typing import Any

from ccfd.errors import Refused
from ccfd.ipam import networks
from ccfd.model.slice import PlannedSlice
from ccfd.store.database import Transaction

OUTSIDE = 2
"""The type of networks that gateways have addresses in."""


async def take(slice_name: str, island: str, transaction: Transaction) -> str:
    """Take the lowest free address. Raises `Refused`: `network_exhausted`, `address_exhausted`."""
    if not await networks.serving(OUTSIDE, island, transaction):
        raise Refused(
            "network_exhausted",
            f"no network of type 2 serves island {island}, and gateways need an address there: add"
            " a [[network]], or send gateway: false",
        )
    return await networks.take_address(OUTSIDE, island, slice_name, transaction)


async def claim(planned: PlannedSlice, island: str, transaction: Transaction) -> None:
    """Take the address that the slice has. Raises `Refused` (`invalid_state`)."""
    if planned.gateway is not None:
        await networks.claim_address(OUTSIDE, island, planned.gateway, planned.name, transaction)


async def give_back(planned: PlannedSlice, transaction: Transaction) -> None:
    """Give back what the slice has."""
    if planned.gateway is not None:
        await networks.give_address_back(OUTSIDE, planned.gateway, transaction)


def to_row(planned: PlannedSlice) -> dict[str, str] | None:
    """Return what the slice's row and document tell of its gateway."""
    if planned.gateway is None:
        return None
    return {"inside": planned.address.partition("/")[0], "outside": planned.gateway}


def of_row(told: Any) -> str | None:
    """Return the address outside that a row tells of."""
    return None if told is None else told["outside"]
