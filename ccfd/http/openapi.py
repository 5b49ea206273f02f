"""What is served, exactly, for programs: OpenAPI 3.1, made of the routes and the event schemas."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from ccfd import __version__
from ccfd.documents import COLLECTIONS

Json = dict[str, Any]

ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "retriable", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "retriable": {"type": "boolean"},
                "details": {"type": "object"},
            },
        }
    },
}
CONSOLE: Json = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["vnc", "serial"]},
        "view_only": {"type": "boolean"},
    },
}
PAGING = ("limit", "after")
QUERIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/v1/events"): ("wait",),
    ("GET", "/v1/events"): ("slice",),
    ("POST", "/v1/vms/{name}/console"): ("type",),
    ("GET", "/console/ws"): ("ticket",),
    **{
        ("GET", f"/v1/{name}"): (*PAGING, *sorted(known.filters))
        for name, known in COLLECTIONS.items()
    },
}
STREAMS = frozenset({("GET", "/v1/events"), ("GET", "/metrics")})


def document(routes: Iterable[web.AbstractRoute], events: Mapping[str, type[BaseModel]]) -> Json:
    """Describe *routes*; *events* are the bodies of the events by their types."""
    paths: dict[str, Json] = {}
    for route in routes:
        if route.method == "HEAD" or route.resource is None:
            continue
        path = route.resource.canonical
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ccfd", "version": __version__},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Error": ERROR, "Event": _event(events)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: web.AbstractRoute, path: str) -> Json:
    key = (route.method, path)
    named = [part.strip("{}").partition(":")[0] for part in path.split("/") if "{" in part]
    operation: Json = {
        "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in named
            ),
            *(
                {"name": name, "in": "query", "schema": {"type": "string"}}
                for name in QUERIES.get(key, ())
            ),
        ],
        "responses": {
            "default": {"description": "an error", "content": _json({"$ref": _ref("Error")})}
        },
    }
    body: Json = {"description": "what was asked for"}
    if key not in STREAMS:
        body["content"] = _json({"type": "object"})
    operation["responses"]["200"] = body
    if key == ("POST", "/v1/events"):
        operation["responses"]["202"] = {
            "description": "stored; not ended yet",
            "content": _json({"type": "object"}),
        }
    if key == ("POST", "/v1/vms/{name}/console"):
        operation["requestBody"] = {"required": False, "content": _json(CONSOLE)}
    if path in ("/v1/events", "/v1/plan") and route.method == "POST":
        operation["requestBody"] = {"required": True, "content": _json({"$ref": _ref("Event")})}
    return operation


def _event(events: Mapping[str, type[BaseModel]]) -> Json:
    """Describe an envelope, one alternative for each type of event."""
    return {
        "oneOf": [
            {
                "type": "object",
                "required": ["type", "data"],
                "additionalProperties": False,
                "properties": {
                    "type": {"const": kind},
                    "id": {"type": "string", "minLength": 1, "maxLength": 128},
                    "data": body.model_json_schema(),
                },
            }
            for kind, body in sorted(events.items())
        ]
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"
