"""Who is given a slice's private key, and what is said where there is none."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import select, update

from ccfd.http import access, ssh_key
from ccfd.http.api import errors
from ccfd.http.openapi import document
from ccfd.store.tables import slices
from ccfd.vt.ssh_keys import SshKeys
from tests.harness import Harness

Ask = Callable[..., Awaitable[tuple[int, Any]]]
PATH = "/v1/slices/{name}/ssh-key"


@web.middleware
async def as_said(request: web.Request, handler: access.Handle) -> web.StreamResponse:
    request[access.REQUEST_ROLE] = request.headers["role"]
    return await handler(request)


@pytest.fixture
async def ask(harness: Harness) -> Ask:
    """Have the slice `demo`, and ask as a role, with secrets."""
    async with harness.running():
        await harness.ask("slice.create", slice="demo", gateway=False)

    async def call(
        name: str = "demo", role: str = "portal", secrets: tuple[bytes, ...] | None = None
    ) -> tuple[int, Any]:
        mine = harness.settings.slices.ssh_key_secrets if secrets is None else secrets
        application = web.Application(middlewares=[errors, as_said])
        application.add_routes(ssh_key.routes(harness.database, SshKeys(mine)))
        assert document(application.router.routes(), {})["paths"][PATH]["get"]["summary"]
        path = PATH.format(name=name)
        async with (
            TestClient(TestServer(application)) as client,
            client.get(path, headers={"role": role}) as answer,
        ):
            assert answer.status != 200 or answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()

    return call


@pytest.mark.parametrize("role", ["portal", "operator"])
async def test_a_portal_and_an_operator_get_it(ask: Ask, harness: Harness, role: str) -> None:
    status, body = await ask(role=role)
    assert status == 200
    assert set(body) == {"slice", "public_key", "private_key"}
    async with harness.database.read() as transaction:
        public = await transaction.scalar(select(slices.c.ssh_public_key))
    assert body["public_key"] == public
    assert "OPENSSH PRIVATE KEY" in body["private_key"]


async def test_a_viewer_does_not(ask: Ask) -> None:
    status, body = await ask(role="viewer")
    assert status == 403
    assert "portal or an operator" in body["error"]["message"]


async def test_a_slice_that_is_not_there_is_not_found(ask: Ask) -> None:
    status, body = await ask("nope")
    assert (status, body["error"]["code"]) == (404, "slice_not_found")


async def test_another_secret_is_told_with_what_to_do(ask: Ask) -> None:
    for secrets, what in (
        ((b"quite another secret",), "put that one back"),
        ((), "set [slices] ssh_key_secret_file as it was"),
    ):
        status, body = await ask(secrets=secrets)
        assert (status, body["error"]["code"]) == (409, "invalid_state")
        assert what in body["error"]["message"]


async def test_a_slice_without_a_key_is_told_with_what_to_do(ask: Ask, harness: Harness) -> None:
    async with harness.database.connection() as connection:
        await connection.execute(update(slices).values(ssh_public_key=None, ssh_sealed_key=None))
        await connection.commit()
    for secrets, what in (
        (None, "it was made while [slices] ssh_key_secret was not set"),
        ((), "set [slices] ssh_key_secret_file, and slices made from then on get one"),
    ):
        status, body = await ask(secrets=secrets)
        assert (status, body["error"]["code"]) == (409, "invalid_state")
        assert what in body["error"]["message"]
