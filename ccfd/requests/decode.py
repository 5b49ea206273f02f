"""What bytes mean: JSON, read strictly, and events, by their own properties or as CloudEvents."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ccfd.errors import Refused

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 1 << 20
CLOUDEVENTS = "application/cloudevents+json"
CLOUDEVENTS_PREFIX = "ccf."


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A message as it came: `data` is a JSON object, not yet checked against the event's schema.

    `error` is set, and `data` is None, where the body could not be read.
    """

    message_id: str
    type: str
    data: dict[str, Any] | None
    correlation_id: str
    reply_to: str | None = None
    traceparent: str | None = None
    error: Refused | None = None
    raw: bytes = b""
    content_type: str | None = None
    routing_key: str = ""


def strict_json(raw: bytes | str) -> Any:
    """Read JSON by RFC 8259 and no more; raise `Refused` (`invalid_message`).

    No NaN, no duplicate keys, no NUL and no lone surrogate in strings (no database text holds
    them), at most 1 MiB.
    """
    if len(raw) > MAX_BYTES:
        raise Refused("invalid_message", f"the body is larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        if "\\u" in text or text is raw:
            # A lone surrogate comes by an escape, or in what was never bytes.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        has_nul = "\\u0000" in text and _has_nul(value)
    except Refused:
        raise
    except (ValueError, RecursionError) as exc:
        raise Refused("invalid_message", f"the body is not JSON: {exc}") from exc
    if has_nul:
        raise Refused("invalid_message", "the body holds a NUL character")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused("invalid_message", f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise Refused("invalid_message", f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Refused("invalid_message", f"{text} is larger than any number")
    return number


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def json_object(raw: bytes | str) -> dict[str, Any]:
    """Read a JSON object strictly; raise `Refused` (`invalid_message`)."""
    value = strict_json(raw)
    if not isinstance(value, dict):
        raise Refused("invalid_message", "the body is not a JSON object")
    return value


def validated(model: type[M], data: Mapping[str, Any]) -> M:
    """Check *data* against *model*; raise `Refused` naming every bad field.

    An integer `ipcount` outside the four sizes is `invalid_ipcount`, all else `invalid_message`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        only = {error["type"] for error in errors}
        raise Refused(
            "invalid_ipcount" if only == {"invalid_ipcount"} else "invalid_message",
            "; ".join(f"{_path(error['loc'])}: {error['msg']}" for error in errors),
            details={"fields": [_path(error["loc"]) for error in errors]},
        ) from exc


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"


def from_amqp(
    raw: bytes,
    *,
    routing_key: str,
    message_id: str,
    content_type: str | None,
    correlation_id: str | None,
    reply_to: str | None,
    traceparent: str | None,
) -> Event:
    """Make an event of a delivery; a body that cannot be read is told in `error`."""
    kind, data, error = routing_key, None, None
    try:
        data = json_object(raw)
        if content_type is not None and content_type.split(";")[0].strip().lower() == CLOUDEVENTS:
            message_id, kind, data = _cloudevent(data)
    except Refused as exc:
        data, error = None, exc
    return Event(
        message_id=message_id,
        type=kind,
        data=data,
        correlation_id=correlation_id or message_id,
        reply_to=reply_to,
        traceparent=traceparent,
        error=error,
        raw=raw,
        content_type=content_type,
        routing_key=routing_key,
    )


def _cloudevent(envelope: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Take a structured CloudEvent (CloudEvents 1.0, JSON format) apart: id, type, data."""
    identity, kind = envelope.get("id"), envelope.get("type")
    if envelope.get("specversion") != "1.0":
        raise Refused("invalid_message", "not a CloudEvent of specversion 1.0")
    if not isinstance(identity, str) or not is_message_id(identity):
        raise Refused("invalid_message", "the CloudEvent's id must have 1 to 128 characters")
    if not isinstance(kind, str):
        raise Refused("invalid_message", "the CloudEvent has no type")
    data = envelope.get("data", {})
    if not isinstance(data, dict):
        raise Refused("invalid_message", "the CloudEvent's data is not a JSON object")
    return identity, kind.removeprefix(CLOUDEVENTS_PREFIX), data


def is_message_id(text: str | None) -> bool:
    """Tell whether *text* can be a request's id: 1 to 128 characters that a database can hold."""
    return text is not None and 1 <= len(text) <= 128 and "\0" not in text
