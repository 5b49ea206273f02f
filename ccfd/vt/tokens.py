"""Who ccfd is to Glance: a fixed token, or one that Keystone gives for a password.

https://docs.openstack.org/api-ref/identity/v3/#password-authentication-with-scoped-authorization
"""

import asyncio
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from ccfd.settings import Keystone
from ccfd.vt.openstack import Http, said

EARLY = 60.0
"""Seconds before its end that a token is replaced: a call may take as long."""


class Tokens(Protocol):
    """A giver of tokens."""

    async def token(self, refused: str | None = None) -> str | None:
        """Return the token to send, if any; one other than *refused* where there can be one."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class FixedToken:
    """The token of the settings, or none."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def token(self, refused: str | None = None) -> str | None:
        """Return it: there is no other."""
        return self._token

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class _Times(BaseModel):
    issued_at: datetime
    expires_at: datetime


class _Answer(BaseModel):
    token: _Times


class KeystoneTokens:
    """Asks Keystone, and keeps the token until shortly before its end or until it is refused."""

    def __init__(self, keystone: Keystone, http: Http) -> None:
        assert keystone.url is not None
        self._url = f"{keystone.url}/v3/auth/tokens"
        self._body = _request(keystone)
        self._http = http
        self._token: str | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def token(self, refused: str | None = None) -> str:
        """Return a token; see `Tokens`.

        Raises `Refused` (`image_not_found`) when Keystone turns the user away, `Transient`
        (`timeout`) when it is away.
        """
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._token is None or self._token == refused or now >= self._until:
                self._token, lifetime = await self._ask()
                self._until = now + lifetime - EARLY
            return self._token

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    async def _ask(self) -> tuple[str, float]:
        """Return a new token and the seconds that it lives, by Keystone's own clock."""
        async with self._http.call("POST", self._url, headers={}, json=self._body) as answer:
            if answer.status != 201:
                raise self._http.refused(
                    self._url,
                    f"it answers {answer.status}: {await said(answer)}; look at [keystone]",
                )
            try:
                times = _Answer.model_validate_json(await answer.read()).token
                token = answer.headers["X-Subject-Token"]
            except (ValidationError, KeyError) as exc:
                raise self._http.refused(self._url, "that is no Keystone: no token") from exc
        return token, (times.expires_at - times.issued_at).total_seconds()


def _request(keystone: Keystone) -> dict[str, Any]:
    user = {
        "name": keystone.username,
        "password": keystone.password,
        "domain": {"name": keystone.user_domain},
    }
    project = {"name": keystone.project, "domain": {"name": keystone.project_domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, "scope": {"project": project}}}
