import json
from typing import Any

import pytest

from ccfd.bus.deliveries import SHORT, read, short
from ccfd.bus.letters import letter
from ccfd.store.database import utc_now
from tests.unit.bus.fakes import delivered

CLOUD = "application/cloudevents+json"


def test_the_properties_become_an_event() -> None:
    delivery = read(
        delivered(
            b'{"owner": "demo"}',
            tag=7,
            message_id="m",
            correlation_id="c",
            reply_to="r",
            content_type="application/json",
            headers={"traceparent": "00-1", "other": 1},
        )
    )
    event = delivery.event
    assert (delivery.tag, delivery.is_answerable) == (7, True)
    assert (event.message_id, event.correlation_id, event.reply_to) == ("m", "c", "r")
    assert (event.type, event.routing_key) == ("subnet.create", "subnet.create")
    assert (event.traceparent, event.content_type) == ("00-1", "application/json")
    assert (event.data, event.error) == ({"owner": "demo"}, None)


def test_the_correlation_id_defaults_to_the_message_id() -> None:
    assert read(delivered(message_id="m")).event.correlation_id == "m"


@pytest.mark.parametrize("message_id", [None, "", "x" * 129, "a\0"])
def test_an_unusable_message_id_leaves_nobody_to_answer(message_id: str | None) -> None:
    assert not read(delivered(message_id=message_id)).is_answerable


@pytest.mark.parametrize("message_id", [None, "amqp"])
def test_a_cloud_events_id_takes_the_place_of_the_message_id(message_id: str | None) -> None:
    body = json.dumps({"specversion": "1.0", "id": "ce", "type": "ccf.slice.stop"}).encode()
    event = read(delivered(body, message_id=message_id, content_type=f"{CLOUD}; a=b")).event
    assert (event.message_id, event.type, event.correlation_id) == ("ce", "slice.stop", "ce")


def test_an_unreadable_cloud_event_is_answered_by_its_message_id() -> None:
    delivery = read(delivered(b"{", message_id="amqp", content_type=CLOUD))
    assert delivery.is_answerable
    assert delivery.event.error is not None
    assert not read(delivered(b"{", message_id=None, content_type=CLOUD)).is_answerable


def test_a_nul_goes_nowhere_near_the_database() -> None:
    event = read(
        delivered(
            routing_key="subnet\0create",
            correlation_id="a\0b",
            reply_to="q\0",
            content_type="text/\0",
            headers={"traceparent": "00\0"},
        )
    ).event
    assert event.routing_key == "subnet\N{REPLACEMENT CHARACTER}create"
    assert event.correlation_id == "a\N{REPLACEMENT CHARACTER}b"
    assert event.reply_to is None
    assert event.traceparent is None
    assert event.content_type is not None
    assert "\0" not in event.content_type
    # No known type is called so, and the answer's type is `unknown`.
    assert event.type == "subnet\0create"


@pytest.mark.parametrize("value", [1, True, None, b"\xff", ["x"], {"a": "b"}, "", "x" * 300])
def test_a_traceparent_of_another_kind_is_dropped(value: Any) -> None:
    assert read(delivered(headers={"traceparent": value})).event.traceparent is None


def test_what_was_decoded_into_more_than_a_short_string_is_cut() -> None:
    long = r"\xff" * 255
    event = read(delivered(routing_key=long, correlation_id=long, reply_to=long)).event
    assert len(event.routing_key) == len(event.correlation_id) == SHORT
    assert event.reply_to is None
    assert short("\N{GRINNING FACE}" * 128) == "\N{GRINNING FACE}" * 63


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 500 + b'"\\u0000"' + b"]" * 500])
def test_a_body_that_breaks_the_decoder_is_refused(body: bytes) -> None:
    delivery = read(delivered(body))
    assert delivery.is_answerable
    assert delivery.event.data is None
    assert delivery.event.error is not None
    assert delivery.event.error.code == "invalid_message"


def test_a_letter_keeps_routing_key_and_body() -> None:
    message = delivered(b"{", message_id=None, content_type=CLOUD, routing_key="x" * 101)
    sent = letter(read(message).event, utc_now())
    assert (sent.exchange, sent.routing_key, sent.message.body) == ("ccf.dead", "x" * 101, b"{")
    assert sent.message.headers["x-ccf-error"] == "invalid_message"
    detail = sent.message.headers["x-ccf-detail"]
    assert isinstance(detail, str)
    assert "not JSON" in detail
