"""What the portal is told, event by event, by a real broker and database."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.service.portal import Portal
from tests.service.site import Site

THEN = datetime(2020, 1, 1, tzinfo=UTC)
SECONDS = int(THEN.timestamp()).to_bytes(8, "big")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_subnet_create_answers_accepted_then_succeeded(site: Site, portal: Portal) -> None:
    request = await portal.send(
        "subnet.create", {"owner": "demo"}, correlation_id="c-1", headers={"traceparent": TRACE}
    )
    terminal = await portal.terminal(request)

    accepted, succeeded = portal.about(request)
    assert succeeded is terminal
    for message, outcome in ((accepted, "accepted"), (succeeded, "succeeded")):
        assert message.exchange == "ccf.results"
        assert message.routing_key == message.type == f"subnet.create.{outcome}"
        assert message.correlation_id == "c-1"
        assert message.content_type == "application/json"
        assert message.delivery_mode == 2
        assert message.timestamp is not None
        assert message.headers == {"traceparent": TRACE}
    assert accepted.message_id != succeeded.message_id
    body = json.loads(succeeded.body)
    assert datetime.fromisoformat(body.pop("time"))
    assert datetime.fromisoformat(body["result"].pop("expires_at"))
    assert body.pop("workflow_id") == json.loads(accepted.body)["workflow_id"]
    assert body == {
        "type": "subnet.create",
        "outcome": "succeeded",
        "request_id": request,
        "slice": "demo",
        "result": {"owner": "demo", "subnet": "10.0.0.1/26", "cidr": "10.0.0.0/26"},
    }


async def test_the_correlation_id_defaults_to_the_message_id(site: Site, portal: Portal) -> None:
    request = await portal.send("subnet.create", {"owner": "demo"})
    assert (await portal.terminal(request)).correlation_id == request


async def test_a_slice_tells_its_progress_between_accepted_and_succeeded(
    site: Site, portal: Portal
) -> None:
    vms = [{"name": "vm1", "flavor": "tiny", "image": "tiny"}]
    request = await portal.send("slice.create", {"slice": "demo", "gateway": False, "vms": vms})
    await portal.terminal(request)

    outcomes = [json.loads(message.body)["outcome"] for message in portal.about(request)]
    assert outcomes[0] == "accepted"
    assert outcomes[-1] == "succeeded", portal.about(request)[-1].body
    assert len(outcomes) > 4
    assert set(outcomes[1:-1]) == {"progress"}
    told = portal.about(request)[1]
    assert told.routing_key == told.type == "slice.create.progress"
    assert told.correlation_id == request


async def test_many_subnets_get_as_many_answers(site: Site, portal: Portal) -> None:
    requests = [
        await portal.send("subnet.create", {"owner": f"s{n}", "ipcount": 8}) for n in range(200)
    ]
    subnets = {json.loads((await portal.terminal(r)).body)["result"]["subnet"] for r in requests}
    assert len(subnets) == 200


async def test_a_copy_after_the_end_gets_the_same_result_again(site: Site, portal: Portal) -> None:
    request = await portal.send("subnet.create", {"owner": "demo"})
    first = await portal.terminal(request)
    # Whatever its body: the id alone decides.
    await portal.send("subnet.delete", b"{", message_id=request)
    second = await portal.terminal(request, count=2)
    assert second.message_id == first.message_id
    assert json.loads(second.body) == json.loads(first.body)
    assert not portal.letters
    assert await site.requests() == 1


async def test_a_copy_while_the_request_runs_is_dropped(site: Site, portal: Portal) -> None:
    go = asyncio.Event()

    async def trap(_call: str, _args: object) -> None:
        await go.wait()

    site.world.trap = trap
    request = await portal.send("slice.create", {"slice": "demo", "gateway": False})
    await portal.until(lambda: len(portal.about(request)) >= 2)
    await portal.send("slice.create", {"slice": "demo", "gateway": False}, message_id=request)
    other = await portal.send("subnet.create", {"owner": "other"})
    await portal.terminal(other)
    go.set()
    await portal.terminal(request)
    outcomes = [json.loads(message.body)["outcome"] for message in portal.about(request)]
    assert outcomes.count("accepted") == outcomes.count("succeeded") == 1


async def test_the_terminal_result_also_goes_to_reply_to(site: Site, portal: Portal) -> None:
    request = await portal.send("subnet.create", {"owner": "demo"}, reply_to=portal.reply_to)
    result = await portal.terminal(request)
    await portal.until(lambda: bool(portal.replies))
    (reply,) = portal.replies
    assert reply.exchange == ""
    assert (reply.message_id, reply.body) == (result.message_id, result.body)
    assert reply.type == "subnet.create.succeeded"
    assert reply.correlation_id == request


async def test_an_unroutable_reply_to_is_dropped(site: Site, portal: Portal) -> None:
    request = await portal.send("subnet.create", {"owner": "demo"}, reply_to="nobody")
    await portal.terminal(request)
    await portal.ask("subnet.create", {"owner": "other"})
    await site.bus.flush()
    assert await site.unpublished() == 0


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("subnet.create", b"{", "invalid_message"),
        ("subnet.create", b'{"owner": "demo", "ipcount": NaN}', "invalid_message"),
        ("subnet.create", b'{"owner": "demo", "owner": "demo"}', "invalid_message"),
        ("subnet.create", b"[]", "invalid_message"),
        ("subnet.create", b'{"owner": "\\u0000"}', "invalid_message"),
        ("subnet.create", b'{"owner": "\xff"}', "invalid_message"),
        ("subnet.create", {"owner": "demo", "colour": "red"}, "invalid_message"),
        ("subnet.create", {"owner": "demo", "ipcount": "64"}, "invalid_message"),
        ("subnet.create", {"owner": "demo", "ipcount": 7}, "invalid_ipcount"),
        ("subnet.create", b'{"owner": "demo", "ipcount": 1e999}', "invalid_message"),
        ("subnet.create", b"[" * 500 + b'"\\u0000"' + b"]" * 500, "invalid_message"),
        ("subnet.create", b'{"owner": "' + b"x" * (1 << 20) + b'"}', "invalid_message"),
        ("subnet.grow", {"owner": "demo"}, "unknown_type"),
        ("subnet.\0", {"owner": "demo"}, "unknown_type"),
        ("", {"owner": "demo"}, "unknown_type"),
        ("x" * 101, {"owner": "demo"}, "unknown_type"),
        ("\N{GRINNING FACE}" * 26, {"owner": "demo"}, "unknown_type"),
    ],
)
async def test_what_can_never_be_carried_out_fails_and_is_buried(
    site: Site, portal: Portal, kind: str, body: bytes | dict[str, object], code: str
) -> None:
    request = await portal.send(kind, body)
    result = await portal.terminal(request)
    letter = await portal.letter()

    known = kind in ("subnet.create", "subnet.grow")
    assert result.type == f"{kind if known else 'unknown'}.failed"
    said = json.loads(result.body)
    assert said["error"]["code"] == code
    assert said["error"]["retriable"] is False
    assert said["compensated"] is True
    assert letter.routing_key == kind.replace("\0", "\N{REPLACEMENT CHARACTER}")
    assert letter.body == (body if isinstance(body, bytes) else json.dumps(body).encode())
    assert letter.content_type == "application/json"
    assert letter.headers["x-ccf-error"] == code
    assert letter.headers["x-ccf-detail"] == said["error"]["message"][:1024]
    assert site.dead == [code]
    # It is stored: a copy gets the same answer.
    await portal.send(kind, body, message_id=request)
    assert (await portal.terminal(request, count=2)).message_id == result.message_id


@pytest.mark.parametrize("message_id", [None, "x" * 129, "a\0b"])
async def test_without_a_usable_message_id_only_a_letter_remains(
    site: Site, portal: Portal, message_id: str | None
) -> None:
    await portal.send_raw("subnet.create", b'{"owner": "demo"}', message_id)
    letter = await portal.letter()
    assert letter.routing_key == "subnet.create"
    assert letter.body == b'{"owner": "demo"}'
    assert letter.headers["x-ccf-error"] == "invalid_message"
    assert "message_id" in str(letter.headers["x-ccf-detail"])
    await portal.ask("subnet.create", {"owner": "demo"})
    assert site.buried == ["invalid_message"]
    assert await site.requests() == 1


async def test_a_cloud_event_is_an_event_by_its_id_and_type(site: Site, portal: Portal) -> None:
    for number, kind in enumerate(("ccf.subnet.create", "subnet.create")):
        event = {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "/portal",
            "type": kind,
            "data": {"owner": f"demo{number}"},
        }
        await portal.send_raw(
            "anything",
            json.dumps(event).encode(),
            content_type="application/cloudevents+json; charset=utf-8",
        )
        result = await portal.terminal(f"event-{number}")
        assert result.type == "subnet.create.succeeded"
        assert result.correlation_id == f"event-{number}"


async def test_a_cloud_event_without_an_id_is_buried(site: Site, portal: Portal) -> None:
    event = {"specversion": "1.0", "source": "/portal", "type": "ccf.subnet.create"}
    about = "application/cloudevents+json"
    await portal.send_raw("subnet.create", json.dumps(event).encode(), content_type=about)
    letter = await portal.letter()
    assert letter.headers["x-ccf-error"] == "invalid_message"
    # With a message id there is somebody to answer.
    result = await portal.ask("subnet.create", json.dumps(event).encode(), content_type=about)
    assert result["error"]["code"] == "invalid_message"


async def test_a_long_id_of_a_cloud_event_is_answered_all_the_same(
    site: Site, portal: Portal
) -> None:
    identity = "\N{GRINNING FACE}" * 128
    event = {"specversion": "1.0", "id": identity, "type": "ccf.nonsense", "data": {}}
    about = "application/cloudevents+json"
    await portal.send_raw("any", json.dumps(event).encode(), content_type=about)
    result = await portal.terminal(identity)
    assert result.type == "nonsense.failed"
    await portal.letter()


BAD = b"\xff"


@pytest.mark.parametrize(
    ("about", "written", "sent"),
    [
        ({"correlation_id": "CORRELATION"}, b"CORRELATION", BAD * 11),
        ({"app_id": "APPLICATION"}, b"APPLICATION", BAD * 11),
        ({"headers": {"HEADER": "value"}}, b"HEADER", BAD * 6),
        ({"timestamp": THEN}, SECONDS, b"\x7f" + BAD * 7),
        ({"headers": {"when": THEN}}, SECONDS, b"\x7f" + BAD * 7),
    ],
)
async def test_properties_that_the_library_cannot_decode_stop_nothing(
    site: Site, portal: Portal, about: dict[str, Any], written: bytes, sent: bytes
) -> None:
    body = b'{"owner": "first"}'
    await portal.send_raw("subnet.create", body, "odd", replaced=(written, sent), **about)
    await portal.ask("subnet.create", {"owner": "second"})
    assert (await portal.terminal("odd")).type == "subnet.create.succeeded"


async def test_a_routing_key_that_is_not_text_is_an_unknown_type(
    site: Site, portal: Portal
) -> None:
    await portal.send_raw("subnet.create", b"{}", "odd", replaced=(b"subnet.create", BAD * 13))
    result = await portal.terminal("odd")
    assert json.loads(result.body)["error"]["code"] == "unknown_type"
    assert (await portal.letter()).body == b"{}"
