"""What is asked of IPAM many times a second, on PostgreSQL: one statement each.

A statement does what the function of the same name in `subnets` does, where it can be done at
once. Where it cannot (it is to be refused; nothing is left but what others are changing) it takes
nothing and says None: what follows is for that function, which knows why.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from sqlalchemy.engine import Row

from ccfd.ipam import places, pools
from ccfd.store.database import Database, RaceLost, Transaction
from ccfd.store.sharing import Sharing

MOST = 64
"""Wishes that share a commit at most."""
LANES = 2
"""Commits under way at once: while one is written, the next fills."""


class Wish(NamedTuple):
    """A subnet of *size* addresses for *owner*, in the network that is number *nth* of *island*."""

    owner: str
    size: int
    seconds: int
    expires_at: datetime
    island: str
    nth: int = 0


class Holder(NamedTuple):
    """An address of *owner*'s confirmed subnet, for *holder*."""

    owner: str
    holder: str


# Each table is read by the index that the comment beside it names, in that index' order: with
# another ORDER BY the planner walks the primary key. Everything in one statement sees the same
# snapshot, but a locked row is read as it is by now.
_RESERVE = f"""
WITH known AS MATERIALIZED (
    SELECT id, state, size FROM subnet WHERE owner = $1 FOR UPDATE
), renewed AS (
    UPDATE subnet AS s SET timeout = $3, expires_at = $4 FROM known AS k
    WHERE s.id = k.id AND k.state = 'reserved' AND k.size = $2
    RETURNING s.*
), net AS MATERIALIZED (
    SELECT cidr, 'network:' || cidr AS pool FROM network
    WHERE type = 1 AND island = $5 AND NOT EXISTS (SELECT FROM known WHERE state <> 'expired')
    ORDER BY first LIMIT 1 OFFSET $6
), opened AS MATERIALIZED (  -- ix_block_open
    SELECT number, used FROM block
    WHERE network = (SELECT cidr FROM net) AND size = $2 AND NOT is_full
    ORDER BY network, size, number LIMIT 1 FOR UPDATE SKIP LOCKED
), filled AS (
    UPDATE block AS b
    SET used = o.used | o.used + 1, is_full = (o.used | o.used + 1) = (1 << {places.BLOCK} / $2) - 1
    FROM opened AS o WHERE b.network = (SELECT cidr FROM net) AND b.number = o.number
), given AS (  -- ix_pool_item_free
    UPDATE pool_item SET owner = 'size:' || $2
    WHERE pool = (SELECT pool FROM net) AND NOT EXISTS (SELECT FROM opened) AND number = (
        SELECT number FROM pool_item
        WHERE pool = (SELECT pool FROM net) AND owner IS NULL
            AND number < (SELECT next FROM pool WHERE name = (SELECT pool FROM net))
        ORDER BY pool, number LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING number
), raised AS (
    UPDATE pool SET next = next + {pools.RAISE}
    WHERE name = (SELECT pool FROM net) AND next <= last
        AND NOT EXISTS (SELECT FROM opened) AND NOT EXISTS (SELECT FROM given)
    RETURNING name, next - {pools.RAISE} AS low, least(next - 1, last) AS high
), claimed AS MATERIALIZED (  -- pk_pool_item
    SELECT number FROM pool_item
    WHERE pool = (SELECT name FROM raised)
        AND number BETWEEN (SELECT low FROM raised) AND (SELECT high FROM raised)
), passed AS MATERIALIZED (
    SELECT name, n AS number, n = min(n) OVER () AS mine
    FROM raised CROSS JOIN generate_series(low, high) AS n
    WHERE NOT EXISTS (SELECT FROM claimed WHERE number = n)
), marked AS (
    INSERT INTO pool_item (pool, number, owner)
    SELECT name, number, CASE WHEN mine THEN 'size:' || $2 END FROM passed
), fresh AS (
    SELECT number FROM given UNION ALL SELECT number FROM passed WHERE mine
), begun AS (
    INSERT INTO block (network, number, size, used, is_full)
    SELECT cidr, number, $2, 1, $2 = {places.BLOCK} FROM fresh CROSS JOIN net
), spot AS MATERIALIZED (
    SELECT number, (SELECT min(place) FROM generate_series(0, {places.BLOCK} / $2 - 1) AS place
                    WHERE used >> place & 1 = 0) AS place
    FROM opened UNION ALL SELECT number, 0 FROM fresh
), gone AS (
    DELETE FROM subnet AS s USING known AS k
    WHERE s.id = k.id AND k.state = 'expired' AND EXISTS (SELECT FROM spot)
    RETURNING s.id
), made AS (
    INSERT INTO subnet (owner, network, block, place, size, first, state, timeout, expires_at)
    SELECT $1, cidr, number, place, $2, number * {places.BLOCK} + place * $2, 'reserved', $3, $4
    FROM spot CROSS JOIN net
    WHERE (SELECT count(*) FROM gone) >= 0  -- first it goes
    RETURNING *
)
SELECT (SELECT cidr FROM net) AS tried, s.*
FROM (SELECT) AS one LEFT JOIN (SELECT * FROM renewed UNION ALL SELECT * FROM made) AS s ON true
"""  # noqa: S608 - numbers of ours

_ALLOCATE = """
WITH held AS MATERIALIZED (
    SELECT id, first, size FROM subnet WHERE owner = $1 AND state = 'confirmed' FOR UPDATE
), taken AS MATERIALIZED (  -- ix_address_subnet
    SELECT number FROM address WHERE subnet = (SELECT id FROM held)
), made AS (
    INSERT INTO address (number, subnet, owner)
    SELECT min(n), id, $2
    FROM held CROSS JOIN generate_series(first + 2, first + size - 2) AS n
    WHERE NOT EXISTS (SELECT FROM taken WHERE number = n)
    GROUP BY id
    -- Taken while this waited for the subnet's row, and so not seen.
    ON CONFLICT DO NOTHING
    RETURNING number
)
SELECT (SELECT number FROM made) AS number
"""


async def reserve(wish: Wish, transaction: Transaction) -> Row[Any] | None:
    """Reserve a subnet, or start its timeout again; return its row."""
    connection = await transaction.connection()
    while True:
        row = (await connection.exec_driver_sql(_RESERVE, wish)).one()
        if row.id is not None or row.tried is None:
            return None if row.id is None else row
        wish = wish._replace(nth=wish.nth + 1)


async def allocate(wish: Holder, transaction: Transaction) -> str | None:
    """Take the lowest free address of the owner's confirmed subnet."""
    connection = await transaction.connection()
    return _address((await connection.exec_driver_sql(_ALLOCATE, wish)).scalar_one())


def _address(number: int | None) -> str | None:
    return None if number is None else str(IPv4Address(number))


class Shared:
    """The same for who needs no transaction of its own: what waits together shares a commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reserve = Sharing[Wish, Any](
            partial(self._each, _RESERVE), most=MOST, lanes=LANES, alone=RaceLost
        )
        self._allocate = Sharing[Holder, Any](
            partial(self._each, _ALLOCATE), most=MOST, lanes=LANES, alone=RaceLost
        )

    async def reserve(self, wish: Wish) -> str | None:
        """Reserve a subnet, or start its timeout again; return its gateway: `10.0.0.1/26`."""
        try:
            row = await self._reserve(wish)
            while row["id"] is None and row["tried"] is not None:
                wish = wish._replace(nth=wish.nth + 1)
                row = await self._reserve(wish)
        except RaceLost:
            return None
        return None if row["id"] is None else places.gateway(row["first"], row["size"])

    async def allocate(self, wish: Holder) -> str | None:
        """Take the lowest free address of the owner's confirmed subnet."""
        try:
            return _address((await self._allocate(wish))["number"])
        except RaceLost:
            return None

    async def _each(self, statement: str, wishes: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
        """Return the row of each wish, in its place.

        They go in the order of their owners, so that two lanes do not wait for each other.
        """
        order = sorted(range(len(wishes)), key=lambda place: wishes[place][0])
        rows = await self._database.fetch_many(statement, [wishes[place] for place in order])
        found = dict(zip(order, rows, strict=True))
        return [found[place] for place in range(len(wishes))]
