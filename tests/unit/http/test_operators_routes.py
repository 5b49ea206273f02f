"""What everybody may look at, and only an operator may have done."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ccfd.http import access, reconcile, recover
from ccfd.http.openapi import document


class Twin:
    async def plan(self) -> dict[str, Any]:
        return {"would": True}

    async def apply(self) -> dict[str, Any]:
        return {"did": True}


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
