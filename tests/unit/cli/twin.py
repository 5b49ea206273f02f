"""A small ccfd: the paths that ccfctl asks for, and requests that end as a test says."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Document = dict[str, Any]

VM = {
    "vm": "0b5c7a52-6a51-4a8e-9f10-1f2e3d4c5b6a",
    "name": "web",
    "slice": "demo",
    "kind": "slice",
    "state": "running",
    "ip": "10.0.0.2",
    "mac": "02:01:0a:00:00:02",
    "cpu": 1,
    "ram": 128,
    "disk": 1,
    "flavor": "tiny",
    "image": "tiny",
    "host": "h1",
    "error": None,
    "created_at": "2026-11-22T12:00:00.000Z",
}
SLICE = {
    "slice": "demo",
    "state": "active",
    "island": "default",
    "subnet": "10.0.0.1/26",
    "cidr": "10.0.0.0/26",
    "gateway": None,
    "dhcp": True,
    "controller": None,
    "vni": 1001,
    "hosts": ["h1"],
    "vms": [VM],
    "created_at": "2026-11-22T12:00:00.000Z",
    "expires_at": "2026-12-22T12:00:00.000Z",
    "description": "a \x1b[31mred\x1b[0m one",
    "project": None,
    "user": None,
}
SSH_KEY = {"slice": "demo", "public_key": "ssh-ed25519 AAAA", "private_key": "-----\nsecret\n"}
LEASE = {
    "vm": VM["vm"],
    "name": "web",
    "ip": "10.0.0.2",
    "mac": VM["mac"],
    "renewed_at": "2026-11-22T12:00:00.000Z",
    "expires_at": "2026-11-22T13:00:00.000Z",
}
NO_HOST = {
    "code": "no_valid_host",
    "message": "none of 2 hosts can take the VM web; details say why",
    "retriable": False,
    "details": {
        "vm": "web",
        "filters": {"ram": 1, "state": 1},
        "hosts": {"h1": "ram: 64 MiB free, 128 wanted", "h2": "state: the host is down"},
    },
}


def error(code: str, message: str) -> Document:
    return {"error": {"code": code, "message": message, "retriable": False, "details": {}}}


@dataclass
class Twin:
    """What ccfd holds, and how requests end; `posted` is what came."""

    steps: tuple[str, ...] = ("make-bridge", "boot")
    terminal: Document = field(
        default_factory=lambda: {"outcome": "succeeded", "result": SLICE, "compensated": False}
    )
    refusal: tuple[int, Document] | None = None
    streams: bool = True
    silent: bool = False
    never_ends: bool = False
    posted: list[Document] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    subscribed: list[tuple[str | None, str | None]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    lists: dict[str, list[Document]] = field(
        default_factory=lambda: {"slices": [SLICE], "vms": [VM], "hosts": [], "subnets": []}
    )
    requests: dict[str, Document] = field(default_factory=dict)
    lose_stream_after: int | None = None
    came: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    on_post: Callable[[], None] = lambda: None
    _queues: list[asyncio.Queue[bytes]] = field(default_factory=list)
    _consoles: list[web.Request] = field(default_factory=list)
    _number: int = 0

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.post("/v1/events", self.post),
                web.get("/v1/events", self.stream),
                web.get("/v1/requests/{id}", self.request),
                web.get("/v1/slices/demo", self.slice),
                web.get("/v1/slices/demo/ssh-key", self.ssh_key),
                web.get("/v1/slices/demo/leases", self.leases),
                web.get("/v1/recover", self.recover),
                web.post("/v1/recover", self.recover),
                web.post("/v1/dead/{id}/requeue", self.requeue),
                web.get("/v1/vms/{id}", self.vm),
                web.post("/v1/vms/{id}/console", self.console),
                web.get("/console/ws", self.websocket),
                web.get("/v1/{kind}", self.list),
            ]
        )
        application.on_shutdown.append(self.close)
        return application

    async def close(self, _application: web.Application) -> None:
        for queue in self._queues:
            queue.put_nowait(b"")

    async def console(self, request: web.Request) -> web.Response:
        wish = await request.json()
        self.posted.append(wish)
        ticket = f"a-{wish['type']}-ticket"
        url = f"http://ccfd.example/console/{request.match_info['id']}?ticket={ticket}"
        return web.json_response({"url": url, "ticket": ticket})

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Be a serial console: it echoes, and `exit` turns its VM off."""
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        if request.query["ticket"] != "a-serial-ticket":
            await socket.close(code=4401, message=b"ticket unknown: ask for a new one")
            return socket
        self._consoles.append(request)
        await socket.send_bytes(b"login: ")
        typed = b""
        async for message in socket:
            typed += message.data
            await socket.send_bytes(message.data)
            if typed.endswith(b"exit\r"):
                await socket.close(code=4409, message=b"the VM is not running")
        return socket

    def lose_consoles(self) -> None:
        """Cut the connections of open consoles."""
        for request in self._consoles:
            assert request.transport is not None
            request.transport.abort()

    async def requeue(self, request: web.Request) -> web.Response:
        return web.json_response({"request_id": f"{request.match_info['id']} again"}, status=202)

    async def recover(self, request: web.Request) -> web.Response:
        self.recovered.append(request.method)
        vm = {name: VM[name] for name in ("vm", "name", "host", "ip", "state")}
        made = {"slice": "demo", "outcome": "rebuilt", "vni": 1001, "subnet": "10.0.0.1/26"}
        return web.json_response(
            {
                "slices": [{**made, "vms": [vm], "notes": ["it may have VMs on h2"]}],
                "known": [],
                "left_out": [{"slice": "other", "why": "VNI 7 is also that of third"}],
                "disks": [],
                "unseen": {"libvirt of h2": "no answer within 15 s"},
            }
        )

    async def post(self, request: web.Request) -> web.Response:
        self.authorization.append(request.headers.get("Authorization"))
        body = await request.json()
        self.posted.append(body)
        self.on_post()
        if self.refusal is not None:
            status, document = self.refusal
            return web.json_response(document, status=status)
        about = {"type": body["type"], "request_id": body["id"], "workflow_id": "w"}
        if not self.never_ends:
            self._carry_out(about)
        return web.json_response({"request_id": body["id"]}, status=202)

    def _carry_out(self, about: Document) -> None:
        of = len(self.steps)
        for index, step in enumerate(self.steps, 1):
            for status in ("started", "done"):
                progress = {"step": step, "index": index, "of": of, "status": status}
                self.say("progress", {**about, "outcome": "progress", "progress": progress})
        # Another's result on the same stream is not ours.
        self.say("failed", {"type": "vm.delete", "outcome": "failed", "request_id": "another"})
        terminal = {**about, "time": "2026-11-22T12:00:01.000Z", **self.terminal}
        self.say(terminal["outcome"], terminal)
        ended: Document = {n: terminal[n] for n in ("result", "error") if n in terminal}
        self.requests[about["request_id"]] = {
            **about,
            "state": terminal["outcome"],
            "key": "slice:demo",
            "steps": [
                {
                    "name": step,
                    "state": "done",
                    "attempts": 1,
                    "started_at": None,
                    "ended_at": None,
                    "error": None,
                }
                for step in self.steps
            ],
            **ended,
        }

    def say(self, outcome: str, body: Document) -> None:
        if self.silent:
            return
        identity = ""
        if outcome != "progress":
            self._number += 1
            identity = f"id: {self._number}\n"
        wire = f"{identity}event: {body['type']}.{outcome}\ndata: {json.dumps(body)}\n\n"
        for queue in self._queues:
            queue.put_nowait(wire.encode())

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.subscribed.append((request.query.get("slice"), request.headers.get("Last-Event-ID")))
        self.came.release()
        if not self.streams:
            return web.json_response(error("internal", "no streams here"), status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.append(queue)
        await response.prepare(request)
        await response.write(b": connected\n\n")
        sent = 0
        while sent != self.lose_stream_after:
            wire = await queue.get()
            if not wire:
                break
            # In two halves: an event need not come in one piece.
            await response.write(wire[:7])
            await response.write(wire[7:])
            sent += 1
        self._queues.remove(queue)
        self.lose_stream_after = None
        return response

    async def request(self, request: web.Request) -> web.Response:
        found = self.requests.get(request.match_info["id"])
        if found is None:
            return web.json_response(error("request_not_found", "no such request"), status=404)
        return web.json_response(found)

    async def slice(self, request: web.Request) -> web.Response:
        return web.json_response(SLICE)

    async def leases(self, _request: web.Request) -> web.Response:
        return web.json_response({"items": [LEASE], "next": None})

    async def ssh_key(self, request: web.Request) -> web.Response:
        return web.json_response(SSH_KEY)

    async def vm(self, request: web.Request) -> web.Response:
        if request.match_info["id"] == VM["vm"]:
            return web.json_response(VM)
        return web.json_response(error("vm_not_found", "there is no VM"), status=404)

    async def list(self, request: web.Request) -> web.Response:
        items = [
            item
            for item in self.lists[request.match_info["kind"]]
            if all(
                item.get(name) == value
                for name, value in request.query.items()
                if name not in ("limit", "after")
            )
        ]
        # One item a page, so that ccfctl has to turn pages.
        at = int(request.query.get("after", "0"))
        more = str(at + 1) if at + 1 < len(items) else None
        return web.json_response({"items": items[at : at + 1], "next": more})
