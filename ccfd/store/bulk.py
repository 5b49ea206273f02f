"""Inserts many rows in one statement: on PostgreSQL a column is an array (`unnest`)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import JSON, Table, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect

from ccfd.store.database import Transaction

_JSON = (dict, list)


async def insert_all(
    table: Table, rows: Sequence[dict[str, Any]], transaction: Transaction
) -> None:
    """Insert *rows*, which name the same columns, in their order."""
    connection = await transaction.connection()
    if connection.dialect.name != "postgresql":
        await transaction.execute(insert(table), rows)
        return
    statement, arrays = _arrays(table, rows, connection.dialect)
    await connection.exec_driver_sql(statement, arrays)


async def insert_new(
    table: Table, rows: Sequence[dict[str, Any]], key: str, transaction: Transaction
) -> set[Any]:
    """Insert those of *rows* whose *key*, a unique column, is new; return these keys."""
    connection = await transaction.connection()
    if connection.dialect.name != "postgresql":
        fresh = sqlite.insert(table).on_conflict_do_nothing(index_elements=[key])
        found = [
            await transaction.scalar(fresh.values(row).returning(table.c[key])) for row in rows
        ]
        return set(found) - {None}
    statement, arrays = _arrays(table, rows, connection.dialect)
    inserted = await connection.exec_driver_sql(
        f"{statement} ON CONFLICT ({key}) DO NOTHING RETURNING {key}", arrays
    )
    return set(inserted.scalars())


def _arrays(
    table: Table, rows: Sequence[dict[str, Any]], dialect: Dialect
) -> tuple[str, tuple[list[Any], ...]]:
    columns = tuple(rows[0])
    arrays = tuple([encoded(row[column]) for row in rows] for column in columns)
    return _statement(table, columns, dialect), arrays


def encoded(value: Any) -> Any:
    """Return what asyncpg is given for *value*: JSON goes as text."""
    return to_json(value).decode() if type(value) in _JSON else value


@cache
def _statement(table: Table, columns: tuple[str, ...], dialect: Dialect) -> str:
    arrays, values = [], []
    for number, name in enumerate(columns, start=1):
        column = table.c[name]
        is_json = isinstance(column.type, JSON)
        kind = "text" if is_json else column.type.compile(dialect=dialect)
        arrays.append(f"${number}::{kind}[]")
        values.append(f'"{name}"::json' if is_json else f'"{name}"')
    names = ", ".join(f'"{name}"' for name in columns)
    return (
        f"INSERT INTO {table.name} ({names})"  # noqa: S608  names of our own tables
        f" SELECT {', '.join(values)} FROM unnest({', '.join(arrays)}) AS v({names})"
    )
