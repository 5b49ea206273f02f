"""How ccfd calls an OpenStack service: each call with a deadline, each failure in our two words."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from ccfd.calls import noted
from ccfd.errors import Refused, Transient

ANSWER_WITHIN = 30.0
"""Seconds until an answer has come whole; of one that is streamed, until its next bytes come."""
CONNECT_WITHIN = 10.0
READ_AT_ONCE = 1 << 20
TOLD = 200
"""Characters of an error's body that are told."""
_LATER = frozenset({408, 429})
"""Statuses below 500 that ask to come again: Request Timeout, Too Many Requests."""


class Http:
    """Calls to one service, such as `Glance`; it belongs to one event loop."""

    def __init__(self, service: str, *, answer_within: float = ANSWER_WITHIN) -> None:
        self.service = service
        self._within = answer_within
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any = None,
        params: Mapping[str, str] | None = None,
        streamed: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer of a status that is final; what reading it raises is translated too.

        Raises `Transient` (`timeout`) when the service does not answer, breaks off, or asks to
        come again.
        """
        timeout = aiohttp.ClientTimeout(
            total=None if streamed else self._within,
            sock_connect=min(CONNECT_WITHIN, self._within),
            sock_read=self._within,
        )
        with noted(self.service.lower(), url, method):
            try:
                async with self._opened().request(
                    method,
                    url,
                    headers=headers,
                    json=json,
                    params=params,
                    timeout=timeout,
                    # A redirect would carry the token to somebody else.
                    allow_redirects=False,
                ) as answer:
                    if answer.status >= 500 or answer.status in _LATER:
                        raise self._away(url, f"it answers {answer.status}: {await said(answer)}")
                    yield answer
            except TimeoutError as exc:
                raise self._away(url, f"no answer within {self._within:g} s") from exc
            except aiohttp.ClientError as exc:
                raise self._away(url, str(exc) or type(exc).__name__) from exc

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Make the session inside the event loop that will use it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Bytes are compared with a digest: nobody on the way shall pack them.
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=READ_AT_ONCE,
                # No deadline of its own hides behind those of each call.
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def _away(self, url: str, why: str) -> Transient:
        return Transient("timeout", f"{self.service} ({url}): {why}", details={"url": url})

    def refused(self, url: str, why: str) -> Refused:
        """Say that the service will not do it."""
        return Refused("image_not_found", f"{self.service} ({url}): {why}", details={"url": url})


async def said(answer: aiohttp.ClientResponse) -> str:
    """Return what an error's body says: OpenStack answers with HTML or JSON."""
    body = (await answer.content.read(4096)).decode(errors="replace")
    words = re.sub(r"<(title|head|style)[^>]*>.*?</\1>|<[^>]*>", " ", body, flags=re.S)
    return " ".join(words.split())[:TOLD]
