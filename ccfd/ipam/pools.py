"""A pool of numbers (blocks, addresses, VNIs), the lowest free one first.

A pool keeps a row for each number that was ever given out and a high-water mark for the rest, so
taking one costs the same whether the pool is empty or full. Takers running side by side pass
over each other's rows and each get a free number; only when nothing else is left they wait for
each other.
"""

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update

from ccfd.store.database import Transaction
from ccfd.store.tables import pool, pool_item

# The high-water mark's row is locked until its transaction ends; raising it by several numbers
# at once lets the next takers pass without it.
RAISE = 32


async def define(name: str, first: int, last: int, transaction: Transaction) -> None:
    """Make the pool of the numbers *first* to *last*, if it is not there."""
    known = await transaction.scalar(select(pool.c.last).where(pool.c.name == name))
    if known is None:
        await transaction.execute(
            insert(pool).values(name=name, first=first, next=first, last=last)
        )
    else:
        await resize(name, name, first, last, transaction)


async def taken_outside(
    name: str, first: int, last: int, limit: int, transaction: Transaction
) -> list[int]:
    """Return the numbers that are taken and not from *first* to *last*, *limit* at most."""
    rows = await transaction.all(
        select(pool_item.c.number)
        .where(
            pool_item.c.pool == name,
            pool_item.c.owner.is_not(None),
            ~pool_item.c.number.between(first, last),
        )
        .order_by(pool_item.c.number)
        .limit(limit)
    )
    return [row.number for row in rows]


async def resize(name: str, to: str, first: int, last: int, transaction: Transaction) -> None:
    """Call pool *name* *to*, and have it hold the numbers *first* to *last*.

    What is taken stays taken, also outside of it.
    """
    held = await transaction.one(select(pool).where(pool.c.name == name).with_for_update())
    assert held is not None
    if (to, first, last) == (name, held.first, held.last):
        return
    # What begins lower is gone through from there once more: the mark passes over what is taken.
    mark = first if first < held.first else max(first, min(held.next, held.last + 1))
    await transaction.execute(
        update(pool).where(pool.c.name == name).values(name=to, first=first, next=mark, last=last)
    )
    await transaction.execute(
        delete(pool_item).where(
            pool_item.c.pool == to,
            pool_item.c.owner.is_(None),
            ~pool_item.c.number.between(first, last),
        )
    )


async def drop(name: str, transaction: Transaction) -> None:
    """Forget a pool of which nothing is taken."""
    await transaction.execute(delete(pool_item).where(pool_item.c.pool == name))
    await transaction.execute(delete(pool).where(pool.c.name == name))


async def take(name: str, owner: str, transaction: Transaction) -> int | None:
    """Take the lowest free number of pool *name* for *owner*; None when there is none."""
    while True:
        number = await _take_given_back(name, owner, transaction, waits=False)
        if number is not None:
            return number
        raised = await transaction.one(
            update(pool)
            .where(pool.c.name == name, pool.c.next <= pool.c.last)
            .values(next=pool.c.next + RAISE)
            .returning(pool.c.next, pool.c.last)
        )
        if raised is None:
            return await _take_given_back(name, owner, transaction, waits=True)
        first, last = raised.next - RAISE, min(raised.next - 1, raised.last)
        claimed = await transaction.all(
            select(pool_item.c.number).where(
                pool_item.c.pool == name, pool_item.c.number.between(first, last)
            )
        )
        fresh = sorted({*range(first, last + 1)} - {row.number for row in claimed})
        if fresh:
            rows = [{"pool": name, "number": number, "owner": None} for number in fresh]
            await transaction.execute(insert(pool_item), rows)


async def claim(name: str, number: int, owner: str, transaction: Transaction) -> str | None:
    """Take exactly *number* of pool *name* for *owner*; return who has it instead.

    It may lie beyond the high-water mark, which passes over it when it gets there.
    """
    item = select(pool_item.c.owner).where(pool_item.c.pool == name, pool_item.c.number == number)
    known = await transaction.one(item.with_for_update())
    if known is None:
        row = {"pool": name, "number": number, "owner": owner}
        await transaction.execute(insert(pool_item).values(row))
    elif known.owner is None:
        await transaction.execute(
            update(pool_item)
            .where(pool_item.c.pool == name, pool_item.c.number == number)
            .values(owner=owner)
        )
    else:
        holder: str = known.owner
        return holder
    return None


async def _take_given_back(
    name: str, owner: str, transaction: Transaction, *, waits: bool
) -> int | None:
    mark = select(pool.c.next).where(pool.c.name == name).scalar_subquery()
    lowest = (
        select(pool_item.c.number)
        .where(pool_item.c.pool == name, pool_item.c.owner.is_(None), pool_item.c.number < mark)
        .order_by(pool_item.c.pool, pool_item.c.number)
        .limit(1)
        .with_for_update(skip_locked=not waits)
        .scalar_subquery()
    )
    number: int | None = await transaction.scalar(
        update(pool_item)
        .where(pool_item.c.pool == name, pool_item.c.number == lowest)
        .values(owner=owner)
        .returning(pool_item.c.number)
    )
    return number


async def give_back(name: str, number: int, transaction: Transaction) -> bool:
    """Give *number* back to pool *name*; False when it was not taken."""
    given = await transaction.execute(
        update(pool_item)
        .where(
            pool_item.c.pool == name,
            pool_item.c.number == number,
            pool_item.c.owner.is_not(None),
        )
        .values(owner=None)
    )
    return given.rowcount == 1


async def used(names: Sequence[str], transaction: Transaction) -> dict[str, int]:
    """Count the numbers of pools that are taken, by their names; a pool of none is left out."""
    counted = await transaction.all(
        select(pool_item.c.pool, func.count().label("taken"))
        .where(pool_item.c.pool.in_(names), pool_item.c.owner.is_not(None))
        .group_by(pool_item.c.pool)
    )
    return {one.pool: one.taken for one in counted}
