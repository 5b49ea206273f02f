"""Rows that tests put into the database themselves, where no request made them."""

from sqlalchemy import insert

from ccfd.store import tables
from ccfd.store.database import Transaction


async def run_vm(vm: str, transaction: Transaction) -> None:
    """Have a VM in the database, as one that runs."""
    await transaction.execute(
        insert(tables.vm).values(
            id=vm,
            slice="demo",
            name="a",
            kind="slice",
            state="running",
            host="h1",
            dhcp=True,
            created_at=transaction.now,
        )
    )
