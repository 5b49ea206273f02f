"""What IPAM promises: the documented order, expiry, and no overlap under any history."""

import asyncio
import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from ccfd.errors import CcfdError, Refused
from ccfd.ipam import places, pools, subnets
from ccfd.store import tables
from ccfd.store.database import Transaction
from tests.harness import Harness

SIZES = (8, 16, 32, 64)


async def reserve(harness: Harness, owner: str, size: int) -> str:
    row = await harness.database.run(lambda tx: subnets.reserve(owner, size, 120, "default", tx))
    return subnets.gateway_of(row)


async def test_places_are_given_in_the_documented_order(harness: Harness) -> None:
    given_out = [
        await reserve(harness, f"o{number}", size)
        for number, size in enumerate((8, 16, 32, 64, 8, 16, 32))
    ]
    assert given_out == [
        "10.0.0.1/29",
        "10.0.0.65/28",
        "10.0.0.129/27",
        "10.0.0.193/26",
        "10.0.0.9/29",
        "10.0.0.81/28",
        "10.0.0.161/27",
    ]


async def test_a_block_whose_last_subnet_is_freed_is_free_again(harness: Harness) -> None:
    assert await reserve(harness, "a", 8) == "10.0.0.1/29"
    await harness.database.run(lambda tx: subnets.release("a", tx))
    assert await reserve(harness, "b", 64) == "10.0.0.1/26"


async def test_a_reservation_is_renewed_for_its_owner(harness: Harness) -> None:
    first = await reserve(harness, "a", 16)
    assert await reserve(harness, "a", 16) == first
    with pytest.raises(Refused, match="delete it first") as refused:
        await reserve(harness, "a", 8)
    assert refused.value.code == "subnet_exists"


async def _let_expire(harness: Harness, owner: str) -> None:
    async def write(tx: Transaction) -> None:
        await tx.execute(
            update(tables.subnet)
            .where(tables.subnet.c.owner == owner)
            .values(expires_at=tx.now - timedelta(seconds=1))
        )

    await harness.database.run(write)
    await harness.database.run(subnets.expire)


async def test_an_expired_subnet_goes_to_the_next_owner_and_a_late_confirm_is_refused(
    harness: Harness,
) -> None:
    first = await reserve(harness, "a", 64)
    await _let_expire(harness, "a")
    assert await reserve(harness, "b", 64) == first
    with pytest.raises(Refused) as refused:
        await harness.database.run(lambda tx: subnets.confirm("a", tx))
    assert refused.value.code == "subnet_expired"
    assert await harness.said() == [
        (
            "subnet.expired",
            {
                "type": "subnet.expired",
                "owner": "a",
                "subnet": first,
                "time": (await harness.said())[0][1]["time"],
            },
        )
    ]
    assert await reserve(harness, "a", 64) == "10.0.0.65/26"


async def test_addresses_are_the_lowest_free_and_run_out(harness: Harness) -> None:
    await reserve(harness, "a", 8)
    await harness.database.run(lambda tx: subnets.confirm("a", tx))

    async def take() -> str:
        return await harness.database.run(lambda tx: subnets.allocate("a", "vm", tx))

    assert [await take() for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(Refused) as refused:
        await take()
    assert refused.value.code == "address_exhausted"
    await harness.database.run(lambda tx: subnets.release_address("10.0.0.4", tx))
    assert await take() == "10.0.0.4"


async def test_sixty_four_at_once_never_get_the_same(harness: Harness) -> None:
    got = await asyncio.gather(*(reserve(harness, f"o{n}", SIZES[n % 4]) for n in range(64)))
    nets = [ipaddress.IPv4Interface(one).network for one in got]
    assert sum(net.num_addresses for net in nets) == len(
        {address for net in nets for address in net}
    )


async def test_what_was_claimed_beyond_the_mark_is_passed_over(harness: Harness) -> None:
    async def play(tx: Transaction) -> None:
        await pools.define("p", 1, 70, tx)
        assert await pools.claim("p", 2, "a", tx) is None
        assert await pools.claim("p", 40, "b", tx) is None
        assert await pools.claim("p", 40, "c", tx) == "b"
        taken = [await pools.take("p", "d", tx) for _ in range(69)]
        assert taken == [number for number in range(1, 71) if number not in (2, 40)] + [None]
        assert await pools.give_back("p", 40, tx)
        assert await pools.claim("p", 40, "e", tx) is None

    await harness.database.run(play)


async def test_exactly_a_subnet_is_claimed(harness: Harness) -> None:
    async def claim(owner: str, gateway: str) -> Any:
        return await harness.database.run(lambda tx: subnets.claim(owner, gateway, 120, tx))

    row = await claim("a", "10.0.0.161/27")
    assert (row.state, subnets.gateway_of(row)) == ("confirmed", "10.0.0.161/27")
    assert await reserve(harness, "b", 32) == "10.0.0.129/27"
    assert await reserve(harness, "c", 64) == "10.0.0.1/26"
    for owner, gateway, code in (
        ("a", "10.0.1.1/26", "subnet_exists"),
        ("d", "10.0.0.161/27", "subnet_in_use"),
        ("d", "10.0.0.129/29", "subnet_in_use"),
        ("d", "10.0.0.1/24", "network_exhausted"),
        ("d", "172.16.0.1/26", "network_exhausted"),
    ):
        with pytest.raises(Refused) as refused:
            await claim(owner, gateway)
        assert refused.value.code == code


@given(
    block=st.integers(0, 1 << 18),
    size=st.sampled_from(SIZES),
    data=st.data(),
)
def test_a_subnets_place_is_found_by_its_address(
    block: int, size: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, places.count(size) - 1))
    first = places.first_address(block, place, size)
    assert places.place_of(first, size) == (block, place)


class Model:
    """The allocator again, by brute force over whole blocks."""

    def __init__(self) -> None:
        self.blocks: dict[int, tuple[int, set[int]]] = {}
        self.held: dict[str, tuple[int, int, int]] = {}

    def reserve(self, owner: str, size: int) -> str:
        if owner in self.held:
            block, place, known = self.held[owner]
            return self._name(block, place, known) if known == size else "subnet_exists"
        number = next(
            (
                n
                for n in sorted(self.blocks)
                if self.blocks[n][0] == size and len(self.blocks[n][1]) < 64 // size
            ),
            None,
        )
        if number is None:
            number = next(n for n in range(1000) if n not in self.blocks)
            self.blocks[number] = (size, set())
        place = next(p for p in range(64 // size) if p not in self.blocks[number][1])
        self.blocks[number][1].add(place)
        self.held[owner] = (number, place, size)
        return self._name(number, place, size)

    def release(self, owner: str) -> None:
        if owner in self.held:
            block, place, _ = self.held.pop(owner)
            self.blocks[block][1].discard(place)
            if not self.blocks[block][1]:
                del self.blocks[block]

    @staticmethod
    def _name(block: int, place: int, size: int) -> str:
        first = ipaddress.IPv4Address("10.0.0.0") + block * 64 + place * size + 1
        return f"{first}/{places.prefix(size)}"


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "reserve", "release", "expire")),
        st.sampled_from([f"o{n}" for n in range(12)]),
        st.sampled_from(SIZES),
    ),
    max_size=30,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=ACTIONS)
async def test_any_history_equals_the_brute_force_model(
    harness: Harness, history: list[tuple[str, str, int]]
) -> None:
    class Back(CcfdError):
        pass

    async def play(tx: Transaction) -> None:
        model = Model()
        for action, owner, size in history:
            await _play(action, owner, size, model, tx)
        raise Back("internal", "roll the history back")

    with pytest.raises(Back):
        await harness.database.run(play)


async def _play(action: str, owner: str, size: int, model: Model, tx: Transaction) -> None:
    if action == "reserve":
        wanted = model.reserve(owner, size)
        try:
            got: Any = subnets.gateway_of(await subnets.reserve(owner, size, 120, "default", tx))
        except Refused as exc:
            got = exc.code
        assert got == wanted
    elif action == "release":
        model.release(owner)
        await subnets.release(owner, tx)
    else:
        model.release(owner)
        await tx.execute(
            update(tables.subnet)
            .where(tables.subnet.c.owner == owner, tables.subnet.c.state == "reserved")
            .values(expires_at=tx.now)
        )
        await subnets.expire(tx)
