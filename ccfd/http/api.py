"""What is served, path by path."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web
from sqlalchemy import select

from ccfd.documents import COLLECTIONS, history, request_documents
from ccfd.errors import CcfdError, ErrorCode, Refused, Transient
from ccfd.http import access
from ccfd.http.metrics import Metrics, gauges
from ccfd.http.openapi import document
from ccfd.http.stream import Stream
from ccfd.requests.decode import MAX_BYTES, Event, is_message_id, json_object
from ccfd.settings import Role, Settings
from ccfd.store import tables
from ccfd.store.database import Database, DatabaseAway, Transaction, told_or_later
from ccfd.store.outbox import encode
from ccfd.workflow.intake import Intake
from ccfd.workflow.intervene import Interventions
from ccfd.workflow.records import ENDED, Records

log = structlog.get_logger()

LONGEST_WAIT = 3600.0
MAX_LIMIT = 1000
KEEP_ALIVE = 15  # seconds of silence
STATUS: dict[ErrorCode, int] = {
    "invalid_message": 400,
    "invalid_ipcount": 400,
    "unknown_type": 400,
    "invalid_state": 409,
    "subnet_expired": 409,
    "cancelled": 409,
    "no_valid_host": 409,
    "network_exhausted": 409,
    "address_exhausted": 409,
}


def status_of(exc: CcfdError) -> int:
    """Return the HTTP status of an error."""
    if exc.code in STATUS:
        return STATUS[exc.code]
    if exc.code.endswith("_not_found"):
        return 404
    if exc.code.endswith(("_exists", "_in_use")):
        return 409
    return 503 if isinstance(exc, Transient) else 500


def answer(body: Any, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=encode(body), status=status, content_type="application/json")


def refusal(exc: CcfdError) -> web.Response:
    """Answer with an error."""
    return answer({"error": exc.document()}, status_of(exc))


@web.middleware
async def errors(request: web.Request, handler: access.Handle) -> web.StreamResponse:
    """Turn every exception into an error with a code."""
    try:
        return await handler(request)
    except CcfdError as exc:
        return refusal(exc)
    except web.HTTPException as exc:
        code: ErrorCode = "request_not_found" if exc.status == 404 else "invalid_message"
        error = Refused(code, f"{request.method} {request.path}: {exc.reason}")
        return answer({"error": error.document()}, exc.status)
    except Exception as exc:
        log.exception("a call of the API is defective", path=request.path)
        return refusal(Refused("internal", f"{exc!r}; this is a defect of ccfd"))


class Api:
    """The API's handlers, over the parts that do the work."""

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        intake: Intake,
        records: Records,
        interventions: Interventions,
        stream: Stream,
        metrics: Metrics,
        problems: Callable[[], dict[str, str]],
        more: Sequence[web.RouteDef] = (),
    ) -> None:
        self._settings = settings
        self._database = database
        self._intake = intake
        self._records = records
        self._interventions = interventions
        self._stream = stream
        self._metrics = metrics
        self._problems = problems
        self._more = more
        self._closing = asyncio.Event()

    def application(self, trusted: Role | None) -> web.Application:
        """Make the application; *trusted* is the role of whoever can connect at all."""
        application = web.Application(
            middlewares=[errors, self._authorize(trusted)], client_max_size=MAX_BYTES
        )
        application.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/metrics", self.metrics),
                web.get("/openapi.json", self.openapi),
                web.post("/v1/events", self.post_event),
                web.get("/v1/events", self.get_events),
                web.post("/v1/plan", self.plan),
                web.get("/v1/requests/{name}", self.get_request),
                web.post("/v1/requests/{name}/{act:cancel|retry|abandon}", self.intervene),
                web.get("/v1/history/{name}", self.get_history),
                web.get("/v1/slices/{name}", self.one("slices")),
                web.get("/v1/vms/{name}", self.one("vms")),
                web.get("/v1/subnets/{name}", self.one("subnets")),
                web.get("/v1/hosts/{name}", self.one("hosts")),
                web.get("/v1/flavors/{name}", self.one("flavors")),
                web.get("/v1/images/{name}", self.one("images")),
                web.get("/v1/consoles/{name}", self.one("consoles")),
                *(web.get(f"/v1/{name}", self.page(name)) for name in COLLECTIONS),
                *self._more,
            ]
        )

        async def close(_application: web.Application) -> None:
            self._closing.set()

        application.on_shutdown.append(close)
        return application

    def _authorize(self, trusted: Role | None) -> Any:
        @web.middleware
        async def authorize(request: web.Request, handler: access.Handle) -> web.StreamResponse:
            caller = access.caller_of(
                request.headers.get("Authorization"), self._settings.http.token
            )
            role = trusted or (caller.role if caller is not None else None)
            if role is None and not access.is_open(request.path):
                raise web.HTTPUnauthorized(
                    reason="give a token: Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            request[access.REQUEST_ROLE] = role or "nobody"
            request[access.REQUEST_CALLER] = caller.name if caller is not None else "UNIX socket"
            return await handler(request)

        return authorize

    async def healthz(self, _request: web.Request) -> web.Response:
        """Say that the event loop turns."""
        return answer({"alive": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Say whether all that is needed is there, and what is not."""
        problems = self._problems()
        return answer({"ready": not problems, "problems": problems}, 503 if problems else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Give Prometheus its text; without the database, only this daemon's own counters."""
        text = self._metrics.text()
        try:
            async with self._database.read() as transaction:
                text += await gauges(transaction)
        except DatabaseAway:
            log.warning("metrics without the database")
        return web.Response(
            body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def openapi(self, request: web.Request) -> web.Response:
        """Describe what is served."""
        return answer(document(request.app.router.routes(), self._intake.schemas()))

    async def post_event(self, request: web.Request) -> web.Response:
        """Store an event as a request; wait for its end where asked to."""
        event = await self._event(request)
        if not access.may_send(request[access.REQUEST_ROLE], event.type):
            raise web.HTTPForbidden(reason=f"this token's role may not send {event.type}")
        wait = number(request, "wait", 0.0, LONGEST_WAIT)
        # Over HTTP whoever sends nonsense is told at once: no request, no dead letter.
        self._intake.check(event)
        async with self._database.signals.listen(ENDED + event.message_id) as told:
            stored = await self._database.run(
                lambda transaction: self._intake.store(event, transaction)
            )
            terminal = stored.terminal
            loop = asyncio.get_running_loop()
            end = loop.time() + wait
            while terminal is None and loop.time() < end and not self._closing.is_set():
                await told_or_later(told, min(1.0, max(0.0, end - loop.time())))
                terminal = await self._terminal(event.message_id)
        if terminal is None or wait == 0:
            return answer({"request_id": event.message_id}, 202)
        return answer(terminal)

    async def _event(self, request: web.Request) -> Event:
        envelope = json_object(await request.read())
        unknown = set(envelope) - {"type", "id", "data"}
        if unknown:
            raise Refused("invalid_message", f"unknown fields: {', '.join(sorted(unknown))}")
        kind, identity = envelope.get("type"), envelope.get("id", str(uuid4()))
        data = envelope.get("data", {})
        if not isinstance(kind, str):
            raise Refused("invalid_message", "type: a string is required")
        if not isinstance(identity, str) or not is_message_id(identity):
            raise Refused("invalid_message", "id: must have 1 to 128 characters")
        if not isinstance(data, dict):
            raise Refused("invalid_message", "data: must be an object")
        return Event(
            message_id=identity,
            type=kind,
            data=data,
            correlation_id=identity,
            traceparent=request.headers.get("traceparent"),
            raw=encode(data),
            content_type="application/json",
        )

    async def _terminal(self, request_id: str) -> dict[str, Any] | None:
        async with self._database.read() as transaction:
            found: dict[str, Any] | None = await transaction.scalar(
                select(tables.request.c.terminal).where(tables.request.c.request_id == request_id)
            )
        return found

    async def plan(self, request: web.Request) -> web.Response:
        """Decide an event without doing anything: its steps, hosts, addresses."""
        event = await self._event(request)
        handler, body = self._intake.check(event)
        return answer({"type": event.type, **await self._records.preview(handler, body)})

    async def get_request(self, request: web.Request) -> web.Response:
        """Describe a request."""
        name = request.match_info["name"]
        async with self._database.read() as transaction:
            row = await transaction.one(
                select(tables.request).where(tables.request.c.request_id == name)
            )
            if row is None:
                raise Refused("request_not_found", f"there is no request {name!r}")
            (document,) = await request_documents([row], transaction)
            return answer(document)

    async def get_history(self, request: web.Request) -> web.Response:
        """Tell what is remembered of a slice, a VM or a request."""
        async with self._database.read() as transaction:
            return answer(await history(request.match_info["name"], transaction))

    async def intervene(self, request: web.Request) -> web.Response:
        """Cancel a request, or have a stuck one's undo tried again or given up."""
        if request[access.REQUEST_ROLE] != "operator":
            raise web.HTTPForbidden(reason="only an operator may intervene in requests")
        act = {
            "cancel": self._interventions.cancel,
            "retry": self._interventions.retry,
            "abandon": self._interventions.abandon,
        }[request.match_info["act"]]
        await act(request.match_info["name"])
        return await self.get_request(request)

    def one(self, collection: str) -> access.Handle:
        """Serve one document of *collection*."""

        async def handle(request: web.Request) -> web.Response:
            async with self._database.read() as transaction:
                return answer(
                    await COLLECTIONS[collection].one(request.match_info["name"], transaction)
                )

        handle.__doc__ = f"Describe one of the {collection}."
        return handle

    def page(self, collection: str) -> access.Handle:
        """Serve the list of *collection*."""

        async def handle(request: web.Request) -> web.Response:
            known = COLLECTIONS[collection]
            filters = dict(request.query)
            after = filters.pop("after", None)
            filters.pop("limit", None)
            unknown = set(filters) - known.filters
            if unknown:
                raise Refused(
                    "invalid_message",
                    f"cannot filter by {', '.join(sorted(unknown))}:"
                    f" only by {', '.join(sorted(known.filters)) or 'nothing'}",
                )
            limit = int(number(request, "limit", 100, MAX_LIMIT, least=1))

            async def read(transaction: Transaction) -> dict[str, Any]:
                return await known.page(limit, after, filters, transaction)

            async with self._database.read() as transaction:
                return answer(await read(transaction))

        handle.__doc__ = f"List {collection}, page by page."
        return handle

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        """Stream results and notices."""
        last = request.headers.get("Last-Event-ID")
        if last is not None and not last.isdecimal():
            raise Refused("invalid_message", "Last-Event-ID: not an id of this stream")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        async with self._stream.subscribe(
            None if last is None else int(last), request.query.get("slice")
        ) as reader:
            await response.prepare(request)
            await response.write(b": connected\n\n")
            silent = 0
            while not self._closing.is_set() and not (reader.lost and reader.queue.empty()):
                try:
                    async with asyncio.timeout(1.0):
                        sent = await reader.queue.get()
                except TimeoutError:
                    silent += 1
                    if silent % KEEP_ALIVE == 0:
                        await response.write(b": keep-alive\n\n")
                else:
                    await response.write(sent.wire())
        return response


def number(
    request: web.Request, name: str, default: float, most: float, *, least: float = 0
) -> float:
    """Read a number of the query; raise `Refused` where it is none from *least* to *most*."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not least <= found <= most:
        raise Refused("invalid_message", f"{name}: must be a number from {least:g} to {most:g}")
    return found
