"""What the database itself refuses, whoever writes."""

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from ccfd.store import database, tables
from ccfd.store.database import Transaction
from tests.harness import Harness


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't try again, as after a race."""
    monkeypatch.setattr(database, "ATTEMPTS", 1)


async def write_all(harness: Harness, *rows: dict[str, Any]) -> None:
    async def write(transaction: Transaction) -> None:
        for number, row in enumerate(rows):
            name = f"r{number}"
            told = {
                "request_id": name,
                "type": "slice.create",
                "key": "slice:demo",
                "unfinished": True,
                "correlation_id": name,
                "workflow_id": name,
                "terminal_message_id": name,
                "received_at": transaction.now,
                **row,
            }
            stored = insert(tables.request).values(told).returning(tables.request.c.seq)
            seq = await transaction.scalar(stored)
            if told["state"] in ("running", "undoing"):
                made = {"seq": seq, "key": told["key"], "owner": "me", "epoch": 1, "journal": ""}
                await transaction.execute(insert(tables.workflow).values(made))

    await harness.database.run(write)


@pytest.mark.parametrize("second", ["running", "undoing"])
async def test_two_requests_of_one_key_cannot_run_at_once(harness: Harness, second: str) -> None:
    with pytest.raises(IntegrityError, match=r"workflow\.key"):
        await write_all(harness, {"state": "running"}, {"state": second})


async def test_others_may_wait_or_run_under_other_keys(harness: Harness) -> None:
    ended = {"state": "stuck", "terminal": {"outcome": "failed"}}
    other = {"state": "running", "key": "slice:other"}
    await write_all(harness, {"state": "running"}, {"state": "queued"}, ended, other)


@pytest.mark.parametrize("state", ["succeeded", "failed", "stuck"])
async def test_no_request_ends_without_a_result(harness: Harness, state: str) -> None:
    with pytest.raises(IntegrityError, match="ends"):
        await write_all(harness, {"state": state, "unfinished": state == "stuck"})


async def test_what_has_ended_is_not_looked_up_as_unfinished(harness: Harness) -> None:
    ended = {"state": "failed", "terminal": {"outcome": "failed"}}
    with pytest.raises(IntegrityError, match="unfinished"):
        await write_all(harness, ended)
