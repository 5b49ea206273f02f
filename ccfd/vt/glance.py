"""What ccfd asks of Glance: the list, one image, bytes of one.

The Image service API v2 (https://docs.openstack.org/api-ref/image/v2/), and what a real server
does where that page is silent: an image without data answers 204 with an empty body, which is
never success; errors are HTML.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from ccfd.errors import Refused, Transient
from ccfd.vt.openstack import READ_AT_ONCE, Http, said
from ccfd.vt.tokens import Tokens

T = TypeVar("T", bound=BaseModel)

PAGE = 100
"""Images asked for at once."""
LISTINGS = 3
"""Times that a list is begun, when what it had come to is deleted under it."""


class Record(BaseModel):
    """An image as Glance describes it; what it does not know yet is None."""

    id: str
    name: str | None = None
    status: str
    disk_format: str | None = None
    container_format: str | None = None
    size: int | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    created_at: datetime


class _Page(BaseModel):
    images: list[Record]
    next: str | None = None


class _MarkerGone(Exception):
    """The image that the next page was to begin behind is not there any more."""


class Data:
    """Bytes of an image, from byte `start` on."""

    def __init__(self, start: int, answer: aiohttp.ClientResponse) -> None:
        self.start = start
        self._answer = answer

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes as they come."""
        return self._answer.content.iter_chunked(READ_AT_ONCE)

    async def first(self, count: int) -> bytes:
        """Give the first *count* bytes, or all where there are fewer; the rest is left unread."""
        found = b""
        while len(found) < count and (more := await self._answer.content.read(count - len(found))):
            found += more
        return found


class Glance:
    """One Glance. Raises `Transient` (`timeout`) when it is away, `Refused` when it says no."""

    def __init__(self, url: str, tokens: Tokens, http: Http) -> None:
        self._base = f"{url}/v2/images"
        self._tokens = tokens
        self._http = http

    async def images(self, name: str | None = None) -> list[Record]:
        """List the active images, all or those called *name*."""
        for _ in range(LISTINGS):
            try:
                return await self._pages(name)
            except _MarkerGone:
                continue
        raise Transient("timeout", f"Glance ({self._base}): its list changes too fast to be read")

    async def show(self, identity: str) -> Record:
        """Return the image; raise `Refused` (`image_not_found`) when there is none."""
        url = f"{self._base}/{identity}"
        async with self._call(url) as answer:
            if answer.status != 200:
                raise await self._no(url, answer)
            return await self._read(Record, url, answer)

    @asynccontextmanager
    async def data(
        self, identity: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[Data]:
        """Give the image's bytes from *start* on, or from 0 where Glance gives no part.

        *end* is where they may end. Raises `Refused`: `image_corrupt` when there is no byte
        *start*, `image_not_found` when there are no bytes at all or we may not have them.
        """
        url = f"{self._base}/{identity}/file"
        part = {} if (start, end) == (0, None) else {"Range": _range(start, end)}
        async with self._call(url, headers=part, streamed=True) as answer:
            match answer.status:
                case 200:
                    yield Data(0, answer)
                case 206:
                    yield Data(_begins_at(answer), answer)
                case 204:
                    raise self._http.refused(url, "it has no data for this image")
                case 416:
                    raise Refused("image_corrupt", f"Glance ({url}): it has no byte {start}")
                case 403:
                    raise self._http.refused(
                        url, "the image is deactivated, or not for us: reactivate it, or import"
                    )
                case _:
                    raise await self._no(url, answer)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()
        await self._tokens.close()

    async def _pages(self, name: str | None) -> list[Record]:
        """Read page after page. `next` is a path that begins anew: only its marker is taken."""
        found: dict[str, Record] = {}
        params = {"status": "active", "limit": str(PAGE)}
        if name is not None:
            params["name"] = name
        while True:
            async with self._call(self._base, params=params) as answer:
                if answer.status in (400, 404) and "marker" in params:
                    raise _MarkerGone
                if answer.status != 200:
                    raise await self._no(self._base, answer)
                page = await self._read(_Page, self._base, answer)
            before = len(found)
            found |= {image.id: image for image in page.images}
            marker = URL(page.next).query.get("marker") if page.next else None
            if marker is None or len(found) == before:
                return list(found.values())
            params["marker"] = marker

    @asynccontextmanager
    async def _call(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        streamed: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Get *url* with a token; where that is refused, with a new one if there can be one."""
        token = await self._tokens.token()
        for last in (False, True):
            sent = (headers or {}) | ({} if token is None else {"X-Auth-Token": token})
            async with self._http.call(
                "GET", url, headers=sent, params=params, streamed=streamed
            ) as answer:
                if answer.status != 401:
                    yield answer
                    return
                another = token if last else await self._tokens.token(refused=token)
                if another == token:
                    raise self._http.refused(
                        url, "it does not take our token: look at images.token or [keystone]"
                    )
                token = another

    async def _no(self, url: str, answer: aiohttp.ClientResponse) -> Refused:
        return self._http.refused(url, f"it answers {answer.status}: {await said(answer)}")

    async def _read(self, kind: type[T], url: str, answer: aiohttp.ClientResponse) -> T:
        try:
            return kind.model_validate_json(await answer.read())
        except ValidationError as exc:
            raise self._http.refused(
                url, "what it answers is not Glance's: look at the URL"
            ) from exc


def _range(start: int, end: int | None) -> str:
    """Write the header `Range` (RFC 9110, 14.1.2): both places are counted in."""
    return f"bytes={start}-{'' if end is None else end - 1}"


def _begins_at(answer: aiohttp.ClientResponse) -> int:
    """Read where the part begins: `Content-Range: bytes 5-9/10` (RFC 9110, 14.4)."""
    words = answer.headers.get("Content-Range", "").removeprefix("bytes").strip()
    start = words.partition("-")[0]
    if not start.isdecimal():
        raise Refused("image_corrupt", f"Glance ({answer.url}): a part with no place: {words!r}")
    return int(start)
