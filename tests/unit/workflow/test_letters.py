"""What could not be carried out is remembered, and sent again under an id of its own."""

import json

import pytest
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.handlers.subnet_events import CreateSubnet
from ccfd.requests.decode import CLOUDEVENTS, from_amqp
from ccfd.store import tables
from ccfd.workflow.letters import DeadLetters
from tests.harness import Harness

BODY = {"owner": "demo", "ipcount": 8}


async def bury(harness: Harness, raw: bytes, message_id: str, kind: str = "subnet.create") -> None:
    about = CLOUDEVENTS if b"specversion" in raw else "application/json"
    event = from_amqp(
        raw,
        routing_key=kind,
        message_id=message_id,
        content_type=about,
        correlation_id="c-1",
        reply_to="portal",
        traceparent=None,
    )
    stored = await harness.database.run(lambda tx: harness.intake.store(event, tx))
    assert stored.fate == "refused"


@pytest.fixture
def letters(harness: Harness) -> DeadLetters:
    return DeadLetters(harness.database, harness.intake)


async def test_letters_are_listed_page_by_page_and_shown_whole(
    harness: Harness, letters: DeadLetters
) -> None:
    for number in range(3):
        await bury(harness, b"{", f"m{number}")
    first = await letters.page(2, 0)
    assert [one["message_id"] for one in first["items"]] == ["m0", "m1"]
    rest = await letters.page(2, int(first["next"]))
    assert [one["message_id"] for one in rest["items"]] == ["m2"]
    assert rest["next"] is None
    shown = await letters.one("m1")
    assert (shown["type"], shown["error"], shown["body"]) == (
        "subnet.create",
        "invalid_message",
        "{",
    )
    assert "JSON" in shown["detail"]
    with pytest.raises(Refused, match="no dead letter"):
        await letters.one("nope")


@pytest.mark.parametrize("cloud", [False, True])
async def test_a_letter_is_sent_again_under_a_new_id_and_answers_the_same(
    harness: Harness, letters: DeadLetters, *, cloud: bool
) -> None:
    envelope = {"specversion": "1.0", "id": "old", "type": "ccf.subnet.create", "data": BODY}
    # An older ccfd did not know the type.
    known = harness.handlers.pop(CreateSubnet.event)
    await bury(harness, json.dumps(envelope if cloud else BODY).encode(), "old")
    harness.handlers[CreateSubnet.event] = known
    fresh = await letters.requeue("old")
    assert fresh != "old"
    async with harness.running():
        ended = await harness.terminal(fresh)
    assert ended["result"]["subnet"] == "10.0.0.1/29"
    async with harness.database.read() as transaction:
        row = await transaction.one(
            select(tables.request).where(tables.request.c.request_id == fresh)
        )
    assert row is not None
    assert (row.correlation_id, row.reply_to) == ("c-1", "portal")


async def test_what_is_still_wrong_is_a_letter_again(
    harness: Harness, letters: DeadLetters
) -> None:
    await bury(harness, b"{", "old")
    fresh = await letters.requeue("old")
    listed = (await letters.page(10, 0))["items"]
    assert [one["message_id"] for one in listed] == ["old", fresh]
