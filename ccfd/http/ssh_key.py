"""The path that hands out a slice's private SSH key."""

from typing import Protocol

import structlog
from aiohttp import web
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.http import access
from ccfd.http.api import answer
from ccfd.store.database import Database
from ccfd.store.tables import slices

log = structlog.get_logger()

ROLES = frozenset({"portal", "operator"})


class Keys(Protocol):
    """Who can open what is sealed."""

    @property
    def are_made(self) -> bool:
        """Tell whether slices get a key."""

    def open(self, sealed: str) -> str:
        """Return the private key, or raise `Refused`."""


def routes(database: Database, keys: Keys) -> list[web.RouteDef]:
    """List the path that the API serves."""

    async def get(request: web.Request) -> web.Response:
        """Give the slice's private SSH key."""
        role, name = request[access.REQUEST_ROLE], request.match_info["name"]
        if role not in ROLES:
            raise web.HTTPForbidden(reason="only a portal or an operator may have private keys")
        async with database.read() as transaction:
            row = await transaction.one(
                select(slices.c.ssh_public_key, slices.c.ssh_sealed_key).where(
                    slices.c.name == name
                )
            )
        if row is None:
            raise Refused("slice_not_found", f"there is no slice {name}")
        if row.ssh_sealed_key is None:
            raise Refused("invalid_state", f"the slice {name} has no SSH key: {_why_none(keys)}")
        try:
            private = keys.open(row.ssh_sealed_key)
        except Refused as exc:
            raise Refused(exc.code, f"the SSH key of {name} cannot be had: {exc.message}") from exc
        log.info("private ssh key handed out", slice=name, role=role)
        response = answer({"slice": name, "public_key": row.ssh_public_key, "private_key": private})
        response.headers["Cache-Control"] = "no-store"
        return response

    return [web.get("/v1/slices/{name}/ssh-key", get)]


def _why_none(keys: Keys) -> str:
    if keys.are_made:
        return "it was made while [slices] ssh_key_secret was not set"
    return "set [slices] ssh_key_secret_file, and slices made from then on get one"
