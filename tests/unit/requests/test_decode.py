"""What counts as an event, and what is refused."""

import json
from typing import Any

import pytest

from ccfd.errors import Refused
from ccfd.requests.decode import MAX_BYTES, from_amqp, strict_json, validated
from ccfd.requests.events import SliceCreate, SubnetCreate, VmCreate


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b"\xff",
        b"[" * 100_000,
        b"[" * 450 + b'"\\u0000"' + b"]" * 450,
        b'{"a": 1e999}',
        b'{"a": "' + b"x" * MAX_BYTES + b'"}',
    ],
)
def test_what_is_not_strict_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        strict_json(raw)
    assert refused.value.code == "invalid_message"


def test_strict_json_reads_json() -> None:
    assert strict_json('{"a": ["\\\\u0000", 1.5, null, "é"]}') == {"a": ["\\u0000", 1.5, None, "é"]}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"owner": "a", "ipcount": 7}, "invalid_ipcount"),
        ({"owner": "a", "ipcount": "64"}, "invalid_message"),
        ({"owner": "a", "ipcount": 64.0}, "invalid_message"),
        ({"owner": "a", "ipcount": True}, "invalid_message"),
        ({"owner": "a", "island": None}, "invalid_message"),
        ({"owner": "a", "colour": "red"}, "invalid_message"),
        ({"owner": "A"}, "invalid_message"),
        ({"owner": "a\n"}, "invalid_message"),
        ({"owner": "-a"}, "invalid_message"),
        ({"owner": "a" * 64}, "invalid_message"),
        ({"owner": ""}, "invalid_message"),
        ({}, "invalid_message"),
        ({"owner": "a", "timeout": 0}, "invalid_message"),
    ],
)
def test_a_body_that_breaks_the_schema_is_refused(body: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        validated(SubnetCreate, body)
    assert refused.value.code == code


def test_a_vm_has_a_flavor_or_all_of_its_sizes() -> None:
    vm = {"slice": "a", "image": "i"}
    assert validated(VmCreate, {**vm, "flavor": "tiny"}).flavor == "tiny"
    assert validated(VmCreate, {**vm, "cpu": 1, "ram": 2, "disk": 3}).disk == 3
    for wrong in ({}, {"cpu": 1}, {"flavor": "tiny", "cpu": 1}):
        with pytest.raises(Refused):
            validated(VmCreate, {**vm, **wrong})


def test_two_vms_of_one_slice_cannot_have_one_name() -> None:
    vm = {"image": "i", "flavor": "f", "name": "x"}
    with pytest.raises(Refused):
        validated(SliceCreate, {"slice": "a", "vms": [vm, vm]})


def deliver(raw: bytes, **properties: Any) -> Any:
    known: dict[str, Any] = {
        "routing_key": "subnet.create",
        "message_id": "m",
        "content_type": "application/json",
        "correlation_id": None,
        "reply_to": None,
        "traceparent": None,
    }
    return from_amqp(raw, **{**known, **properties})


def test_the_message_id_is_the_default_correlation() -> None:
    assert deliver(b"{}").correlation_id == "m"
    assert deliver(b"{}", correlation_id="c").correlation_id == "c"


@pytest.mark.parametrize("kind", ["slice.delete", "ccf.slice.delete"])
def test_a_structured_cloudevent_says_its_id_and_type(kind: str) -> None:
    envelope = {
        "specversion": "1.0",
        "id": "e",
        "type": kind,
        "source": "/p",
        "data": {"slice": "a"},
    }
    event = deliver(
        json.dumps(envelope).encode(), content_type="application/cloudevents+json; charset=utf-8"
    )
    assert (event.message_id, event.type, event.data) == ("e", "slice.delete", {"slice": "a"})


def test_a_body_that_cannot_be_read_is_told_not_raised() -> None:
    event = deliver(b"nonsense")
    assert event.data is None
    assert event.error.code == "invalid_message"
    assert event.raw == b"nonsense"
