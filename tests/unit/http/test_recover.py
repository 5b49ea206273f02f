"""Who may have the database made again."""

from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ccfd.http import access, recover
from ccfd.http.openapi import document


class Twin:
    async def plan(self) -> dict[str, Any]:
        return {"would": True}

    async def apply(self) -> dict[str, Any]:
        return {"did": True}


async def test_everybody_may_look_and_an_operator_may_do_it() -> None:
    @web.middleware
    async def as_said(request: web.Request, handler: access.Handle) -> web.StreamResponse:
        request[access.REQUEST_ROLE] = request.headers["role"]
        return await handler(request)

    application = web.Application(middlewares=[as_said])
    application.add_routes(recover.routes(Twin()))
    served = document(application.router.routes(), {})["paths"]["/v1/recover"]
    assert served["post"]["summary"] == "Make again what of the database hosts still tell."
    async with TestClient(TestServer(application)) as client:
        for role, method, status, body in (
            ("viewer", "GET", 200, {"would": True}),
            ("portal", "POST", 403, None),
            ("operator", "POST", 200, {"did": True}),
        ):
            async with client.request(method, "/v1/recover", headers={"role": role}) as answer:
                assert answer.status == status
                assert body is None or await answer.json() == body
