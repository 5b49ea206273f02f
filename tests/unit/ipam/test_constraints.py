"""What the database itself refuses, whatever the code thinks."""

from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from ccfd.ipam import Ipam
from ccfd.store import tables
from tests.harness import Harness


async def refused(harness: Harness, statement: Any, constraint: str) -> None:
    async with harness.database.read() as transaction:
        with pytest.raises(IntegrityError, match=constraint):
            await transaction.execute(statement)


@pytest.fixture
async def row(harness: Harness) -> dict[str, Any]:
    """A subnet beside the one of "demo", which is 10.0.0.0/29 and has one address taken."""
    ipam = Ipam(harness.database)
    await ipam.create_subnet("demo", 8)
    await ipam.subnet_create_success("demo")
    assert await ipam.allocate_ip("demo") == "10.0.0.2"
    place = {"network": "10.0.0.0/8", "block": 10 << 18, "place": 1, "size": 8}
    return {"owner": "other", **place, "first": (10 << 24) + 8, "state": "confirmed", "timeout": 9}


async def test_no_place_is_held_twice_and_no_owner_has_two(
    harness: Harness, row: dict[str, Any]
) -> None:
    whole = insert(tables.subnet)
    await refused(harness, whole.values({**row, "owner": "demo"}), "subnet.owner")
    twice = {**row, "place": 0, "first": row["first"] - 8}
    await refused(harness, whole.values(twice), "subnet.network, subnet.block, subnet.place")


@pytest.mark.parametrize(
    ("wrong", "constraint"),
    [
        ({"place": 8, "first": (10 << 24) + 64}, "ck_subnet_place"),
        ({"size": 12, "first": (10 << 24) + 12}, "ck_subnet_size"),
        ({"first": 10 << 24}, "ck_subnet_first"),
        ({"state": "lost"}, "ck_subnet_state"),
    ],
)
async def test_a_subnet_lies_where_its_place_is(
    harness: Harness, row: dict[str, Any], wrong: dict[str, Any], constraint: str
) -> None:
    await refused(harness, insert(tables.subnet).values({**row, **wrong}), constraint)


async def test_no_address_is_taken_twice(harness: Harness, row: dict[str, Any]) -> None:
    taken = {"number": (10 << 24) + 2, "subnet": 1, "owner": "other"}
    await refused(harness, insert(tables.address).values(taken), "address.number")


@pytest.mark.parametrize("size", ["cpu", "ram", "disk"])
async def test_no_host_is_overfilled(harness: Harness, size: str) -> None:
    limit = tables.host.c[f"{size}_limit"]
    more = update(tables.host).values({f"{size}_used": limit + 1})
    await refused(harness, more, f"ck_host_{size}")
    less = update(tables.host).values({f"{size}_used": -1})
    await refused(harness, less, f"ck_host_{size}")
