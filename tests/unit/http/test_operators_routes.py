"""What everybody may look at, and only an operator may have done."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ccfd.http import access, dead, reconcile, recover
from ccfd.http.openapi import document


class Twin:
    async def plan(self) -> dict[str, Any]:
        return {"would": True}

    async def apply(self) -> dict[str, Any]:
        return {"did": True}


class Letters:
    async def page(self, limit: int, after: int) -> dict[str, Any]:
        return {"items": [limit, after], "next": None}

    async def one(self, message_id: str) -> dict[str, Any]:
        return {"message_id": message_id}

    async def requeue(self, message_id: str) -> str:
        return f"{message_id} again"


async def test_everybody_may_read_dead_letters_and_an_operator_may_send_them_again() -> None:
    @web.middleware
    async def as_said(request: web.Request, handler: access.Handle) -> web.StreamResponse:
        request[access.REQUEST_ROLE] = request.headers["role"]
        return await handler(request)

    application = web.Application(middlewares=[as_said])
    application.add_routes(dead.routes(Letters()))
    async with TestClient(TestServer(application)) as client:
        for role, method, path, status, body in (
            ("viewer", "GET", "/v1/dead?limit=5&after=7", 200, {"items": [5, 7], "next": None}),
            ("viewer", "GET", "/v1/dead/m1", 200, {"message_id": "m1"}),
            ("portal", "POST", "/v1/dead/m1/requeue", 403, None),
            ("operator", "POST", "/v1/dead/m1/requeue", 202, {"request_id": "m1 again"}),
        ):
            async with client.request(method, path, headers={"role": role}) as answer:
                assert answer.status == status
                assert body is None or await answer.json() == body


@pytest.mark.parametrize(
    ("path", "routes"),
    [("/v1/recover", recover.routes), ("/v1/reconcile", reconcile.routes)],
)
async def test_everybody_may_look_and_an_operator_may_do_it(
    path: str, routes: Callable[[Any], list[web.RouteDef]]
) -> None:
    @web.middleware
    async def as_said(request: web.Request, handler: access.Handle) -> web.StreamResponse:
        request[access.REQUEST_ROLE] = request.headers["role"]
        return await handler(request)

    application = web.Application(middlewares=[as_said])
    application.add_routes(routes(Twin()))
    assert document(application.router.routes(), {})["paths"][path]["post"]["summary"]
    async with TestClient(TestServer(application)) as client:
        for role, method, status, body in (
            ("viewer", "GET", 200, {"would": True}),
            ("portal", "POST", 403, None),
            ("operator", "POST", 200, {"did": True}),
        ):
            async with client.request(method, path, headers={"role": role}) as answer:
                assert answer.status == status
                assert body is None or await answer.json() == body
