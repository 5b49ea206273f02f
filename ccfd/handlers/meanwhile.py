"""Whether anything was asked since hosts were looked at: what was seen may be stale then."""

from sqlalchemy import func, select, union_all

from ccfd.store.database import Transaction
from ccfd.store.tables import request
from ccfd.workflow.ledger import is_open


async def latest(transaction: Transaction) -> int:
    """Return the number of the request that was stored last."""
    return await transaction.scalar(select(func.max(request.c.seq))) or 0


async def is_untouched(key: str, since: int, transaction: Transaction, *, but_by: str = "") -> bool:
    """Tell whether no request of *key* is open or was stored after number *since*.

    Requests of the type *but_by* do not count.
    """
    mine = select(request.c.seq).where(request.c.key == key, request.c.type != but_by)
    # Each has its index; for "or" PostgreSQL would read all that is remembered.
    touched = union_all(mine.where(request.c.seq > since), mine.where(is_open(request))).limit(1)
    return await transaction.one(touched) is None
