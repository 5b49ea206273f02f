"""A Glance (and a Keystone) on loopback that does what it is told, good or bad."""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.unit.vt.test_qcow2 import header

CONTENT = header(size=48 << 20) + bytes(range(256)) * 64


@dataclass
class Fake:
    """An image. `told` goes over what is told of it; `status` of its file over what is sent."""

    name: str = "tiny"
    content: bytes = CONTENT
    told: dict[str, Any] = field(default_factory=dict)
    status: int = 0
    day: int = 1

    def document(self, identity: str) -> dict[str, Any]:
        return {
            "id": identity,
            "name": self.name,
            "status": "active",
            "disk_format": "qcow2",
            "container_format": "bare",
            "size": len(self.content),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(self.content).hexdigest(),
            "created_at": f"2026-01-{self.day:02}T00:00:00Z",
            "visibility": "public",
            **self.told,
        }


@dataclass
class FakeGlance:
    """The server. Tokens are `token-1`, `token-2`, … as Keystone has given them."""

    images: dict[str, Fake] = field(default_factory=lambda: {"i1": Fake()})
    page: int = 100
    takes: set[str] | None = None
    """Tokens that are taken; None: no token is asked for."""
    given: int = 0
    lifetime: int = 3600
    breaks: list[int] = field(default_factory=list)
    """For each answer with bytes, until it is empty: after how many the connection breaks."""
    resumes: bool = True
    ails: type[web.HTTPException] | None = None
    """What answers everything."""
    asked: list[str] = field(default_factory=list)
    """Paths, with `@` and the range where there was one."""
    deletes: dict[str, str] = field(default_factory=dict)
    """Images that go when a path is asked for: path to id."""
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeGlance"]:
        app = web.Application()
        app.router.add_get("/v2/images", self._list)
        app.router.add_get("/v2/images/{id}", self._show)
        app.router.add_get("/v2/images/{id}/file", self._file)
        app.router.add_post("/v3/auth/tokens", self._token)
        async with TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self

    def _check(self, request: web.Request) -> None:
        part = request.headers.get("Range", "")
        self.asked.append(request.path + (f"@{part.removeprefix('bytes=')}" if part else ""))
        if self.ails:
            raise self.ails(text="<h1>Oh</h1>Not <b>now</b>")
        if self.takes is not None and request.headers.get("X-Auth-Token") not in self.takes:
            raise web.HTTPUnauthorized(text="<html><title>x</title><h1>401</h1>No.</html>")

    async def _list(self, request: web.Request) -> web.Response:
        self._check(request)
        names = [
            identity
            for identity, image in self.images.items()
            if request.query.get("name") in (None, image.name)
        ]
        marker = request.query.get("marker")
        self.images.pop(self.deletes.pop(f"page after {marker}", ""), None)
        if marker is not None and marker not in self.images:
            raise web.HTTPBadRequest(text="Invalid marker")
        start = names.index(marker) + 1 if marker else 0
        page = names[start : start + self.page]
        body: dict[str, Any] = {"images": [self.images[one].document(one) for one in page]}
        if start + self.page < len(names):
            body["next"] = f"/v2/images?marker={page[-1]}&limit={self.page}"
        return web.json_response(body)

    async def _show(self, request: web.Request) -> web.Response:
        self._check(request)
        identity = request.match_info["id"]
        if identity not in self.images:
            raise web.HTTPNotFound(text="<h1>404 Not Found</h1>No image found")
        return web.json_response(self.images[identity].document(identity))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        image = self.images[request.match_info["id"]]
        self.images.pop(self.deletes.pop(request.path, ""), None)
        if image.status:
            return web.Response(status=image.status)
        content, start, end = image.content, 0, len(image.content)
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if part and self.resumes:
            start = int(part[1])
            if start >= end:
                return web.Response(status=416)
            end = min(end, int(part[2]) + 1) if part[2] else end
        answer = web.StreamResponse(status=206 if part and self.resumes else 200)
        if part and self.resumes:
            answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        answer.content_length = end - start
        await answer.prepare(request)
        if self.breaks and (request.path + "@0-103") != self.asked[-1]:
            await answer.write(content[start : min(end, start + self.breaks.pop(0))])
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(content[start:end])
        return answer

    async def _token(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        auth = (await request.json())["auth"]
        user = auth["identity"]["password"]["user"]
        if user["password"] != "secret":
            return web.json_response({"error": {"message": "Wrong password"}}, status=401)
        self.given += 1
        body = {
            "token": {
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": f"2026-01-01T{self.lifetime // 3600:02}:00:00.000000Z",
            }
        }
        headers = {"X-Subject-Token": f"token-{self.given}"}
        return web.json_response(body, status=201, headers=headers)
