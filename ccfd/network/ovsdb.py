"""Talks to an Open vSwitch database: JSON-RPC over a UNIX socket, TCP or TLS (RFC 7047).

An asyncio protocol rather than streams: what comes is dealt with in a callback, so there is no
reader task to own. A connection is made when a call needs one, and again after it was lost.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Never

import structlog

from ccfd.calls import noted
from ccfd.errors import CcfdError, Refused, Transient
from ccfd.network.endpoints import Unix, parse, tls_context
from ccfd.network.jsonrpc import BadStreamError, Framer, Message, encode
from ccfd.settings import Tls

log = structlog.get_logger(__name__)

Operation = dict[str, Any]
Result = dict[str, Any]
Tables = dict[str, Any]
"""Rows by table and id, as a monitor tells of them (RFC 7047, 4.1.5 and 4.1.6)."""

DATABASE = "Open_vSwitch"
IN_FLIGHT = 256

# Errors of operations that say nothing against the request (RFC 7047, section 4.1.3 and 5.2;
# "timed out" is a `wait` whose condition does not hold).
_PASSING = frozenset(
    {"timed out", "aborted", "resources exhausted", "I/O error", "referential integrity violation"}
)

_BUMP: tuple[Operation, ...] = (
    {"op": "mutate", "table": DATABASE, "where": [], "mutations": [["next_cfg", "+=", 1]]},
    {"op": "select", "table": DATABASE, "where": [], "columns": ["next_cfg"]},
)


class OperationError(Exception):
    """The server refused an operation; the whole transaction was rolled back.

    `error` is the word of RFC 7047 (`constraint violation`, `timed out`, …).
    """

    def __init__(self, error: str, details: str) -> None:
        super().__init__(f"{error}: {details}" if details else error)
        self.error = error
        self.details = details

    @property
    def passing(self) -> bool:
        """Tell whether the same may work in a moment: somebody else was faster, or it is busy."""
        return self.error in _PASSING

    def translate(self, host: str) -> CcfdError:
        """Return what the workflow shall hear."""
        text = f"the switch of {host} refused the change: {self}"
        return Transient("switch_error", text) if self.passing else Refused("switch_error", text)


class Ovsdb:
    """A database at *address* (`unix:PATH`, `tcp:HOST:PORT`, `ssl:HOST:PORT`).

    Many calls may be under way at once. Each ends within its deadline (seconds), connecting
    included. Raises `Transient` (`host_unreachable`) when the server cannot be reached, does not
    answer or goes away in between: then the transaction may have been carried out or not.
    """

    def __init__(
        self, address: str, tls: Tls | None = None, *, timeout: float = 10, probe: float = 5
    ) -> None:
        self._address = address
        self._endpoint = parse(address)
        self._tls = tls if tls is not None else Tls()
        self._timeout = timeout
        self._probe = probe
        self._ids = itertools.count(1)
        self._connecting = asyncio.Lock()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._connection: _Connection | None = None

    async def transact(self, ops: Sequence[Operation]) -> list[Result]:
        """Carry out *ops* in one transaction and return one result for each.

        Raises `OperationError` when the server refused one of them.
        """
        async with self._deadline():
            return await self._transact(await self._connected(), ops)

    async def transact_applied(self, ops: Sequence[Operation]) -> list[Result]:
        """Carry out *ops*, and wait until ovs-vswitchd has done what they say.

        ovs-vswitchd.conf.db(5): a client increments `next_cfg`, ovs-vswitchd copies it to
        `cur_cfg` when it has finished applying. What it could not do stands in the rows then,
        `Interface.error` first.
        """
        async with self._deadline():
            connection = await self._connected()
            *results, _, row = await self._transact(connection, [*ops, *_BUMP])
        await self._wait_for(connection, int(row["rows"][0]["next_cfg"]))
        return results

    async def applied(self, next_cfg: int) -> None:
        """Wait until ovs-vswitchd has applied the configuration with that number."""
        async with self._deadline():
            connection = await self._connected()
        await self._wait_for(connection, next_cfg)

    async def monitor(
        self, columns: Mapping[str, Sequence[str]], take: Callable[[Tables], None]
    ) -> Never:
        """Have *take* told of all rows of *columns* by table, then of each change, until the end.

        It has a connection of its own, so that no transaction waits behind a long list of rows.
        Ends with `Transient` (`host_unreachable`) only: the connection cannot be made, was lost,
        or the server fell silent. *take* raises `BadStreamError` to hang up.
        """
        wanted = {table: {"columns": [*names]} for table, names in columns.items()}
        connection: _Connection | None = None
        try:
            async with self._deadline():
                connection = await self._connect()
                early: list[Tables] = []
                connection.updated = early.append
                first = await connection.call(next(self._ids), "monitor", [DATABASE, None, wanted])
                for told in (first, *early):
                    take(told)
                connection.updated = take
            raise Transient(
                "host_unreachable",
                f"lost the switch's database at {self._address}: {await connection.lost_because()}",
            )
        finally:
            if connection is not None:
                connection.abort("not listened to any more")

    async def close(self) -> None:
        """Close the connection; calls under way end with `Transient`."""
        if self._connection is not None:
            self._connection.abort("closed by ccfd")
            self._connection = None

    def _deadline(self) -> "_Deadline":
        return _Deadline(self._timeout, self._address)

    async def _wait_for(self, connection: "_Connection", number: int) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await connection.applied(number)
        except TimeoutError as exc:
            raise Transient(
                "switch_error",
                f"the database at {self._address} took the change, but ovs-vswitchd has not "
                f"applied it within {self._timeout:g} s: see whether it runs",
            ) from exc

    async def _transact(self, connection: "_Connection", ops: Sequence[Operation]) -> list[Result]:
        what = f"{len(ops)} operations: " + "/".join(dict.fromkeys(str(op["op"]) for op in ops))
        with noted("ovsdb", self._address, what):
            async with self._room:
                answers = await connection.call(next(self._ids), "transact", [DATABASE, *ops])
        for answer in answers:
            # An operation's error stands inside the result; those behind it are null, and one
            # more element than operations says that the commit failed (RFC 7047, 4.1.3).
            if answer is not None and "error" in answer:
                raise OperationError(answer["error"], answer.get("details", ""))
        return [answer or {} for answer in answers]

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = None
                connection = await self._connect()
                try:
                    first = await connection.call(
                        next(self._ids),
                        "monitor",
                        [DATABASE, None, {DATABASE: {"columns": ["cur_cfg"]}}],
                    )
                except BaseException:
                    connection.abort("could not begin")
                    raise
                connection.note_cur_cfg(first)
                self._connection = connection
            return self._connection

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()

        def make() -> _Connection:
            return _Connection(self._address, self._probe)

        if isinstance(self._endpoint, Unix):
            _, connection = await loop.create_unix_connection(make, self._endpoint.path)
            return connection
        context = tls_context(self._tls) if self._endpoint.tls else None
        _, connection = await loop.create_connection(
            make,
            self._endpoint.host,
            self._endpoint.port,
            ssl=context,
            server_hostname=self._endpoint.host if context else None,
        )
        return connection


class _Deadline:
    """Ends the block after *timeout* seconds and turns what the network does into `Transient`."""

    def __init__(self, timeout: float, address: str) -> None:
        self._timer = asyncio.timeout(timeout)
        self._text = f"no answer from the switch's database at {address} within {timeout:g} s"
        self._address = address

    async def __aenter__(self) -> None:
        await self._timer.__aenter__()

    async def __aexit__(self, kind: Any, exc: BaseException | None, trace: Any) -> None:
        try:
            await self._timer.__aexit__(kind, exc, trace)
        except TimeoutError as timeout:
            raise Transient("host_unreachable", self._text) from timeout
        if isinstance(exc, OSError | BadStreamError):  # ssl.SSLError is an OSError
            raise Transient(
                "host_unreachable",
                f"the switch's database at {self._address} cannot be reached: {exc}",
            ) from exc


class _Connection(asyncio.Protocol):
    """One connection, until it is lost; then every call on it fails with `ConnectionError`."""

    def __init__(self, address: str, probe: float) -> None:
        self.lost = False
        self.updated: Callable[[Tables], None] = self.note_cur_cfg
        self._address = address
        self._probe = probe
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._waiting: set[tuple[int, asyncio.Future[None]]] = set()
        self._end_told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._cur_cfg = -1
        self._heard = False
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard = True
        self._look()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            for message in self._framer.feed(data):
                self._take(message)
        except BadStreamError as exc:
            self.abort(str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "it closed the connection")

    # --- what Ovsdb calls

    async def call(self, number: int, method: str, params: list[Any]) -> Any:
        """Send a request and return its result."""
        if self.lost or self._transport is None:
            raise ConnectionError("the connection is lost")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self._send({"id": number, "method": method, "params": params})
        try:
            return await answer
        finally:
            self._calls.pop(number, None)

    async def applied(self, number: int) -> None:
        """Wait until `cur_cfg` is at least *number*."""
        if self._cur_cfg >= number:
            return
        if self.lost:
            raise Transient("host_unreachable", f"lost the switch's database at {self._address}")
        entry = (number, asyncio.get_running_loop().create_future())
        self._waiting.add(entry)
        try:
            await entry[1]
        except ConnectionError as exc:
            raise Transient(
                "host_unreachable", f"lost the switch's database at {self._address}: {exc}"
            ) from exc
        finally:
            self._waiting.discard(entry)

    async def lost_because(self) -> str:
        """Wait until the connection is lost, and tell why."""
        return await self._end_told

    def note_cur_cfg(self, tables: Tables) -> None:
        """Take the rows of a monitor's first answer or update (RFC 7047, 4.1.5 and 4.1.6)."""
        for row in tables.get(DATABASE, {}).values():
            self._cur_cfg = int(row.get("new", {}).get("cur_cfg", self._cur_cfg))
        for number, done in self._waiting:
            if number <= self._cur_cfg and not done.done():
                done.set_result(None)

    def abort(self, why: str) -> None:
        """End the connection at once, without a goodbye."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    # --- inside

    def _send(self, message: Message) -> None:
        assert self._transport is not None
        self._transport.write(encode(message))

    def _take(self, message: Message) -> None:
        method = message.get("method")
        if method == "echo":  # without an answer the server hangs up (RFC 7047, 4.1.11)
            self._send({"id": message.get("id"), "result": message.get("params"), "error": None})
        elif method == "update":
            self.updated(message["params"][1])
        elif method is None:
            answer = self._calls.get(message.get("id"))  # type: ignore[arg-type]  # what came
            if answer is None or answer.done():
                return  # an answer to our echo, or to a call whose caller has left
            if message.get("error") is not None:
                answer.set_exception(ConnectionError(f"it answered {message['error']!r}"))
            else:
                answer.set_result(message.get("result"))

    def _look(self) -> None:
        """Every *probe* seconds: was anything heard? If not, ask; if then not, hang up."""
        if not self._heard and self._asked:
            log.warning("switch fell silent", address=self._address)
            self.abort(f"nothing heard for {2 * self._probe:g} s")
            return
        self._asked = not self._heard
        if self._asked:
            self._send({"id": "echo", "method": "echo", "params": []})
        self._heard = False
        self._timer = asyncio.get_running_loop().call_later(self._probe, self._look)

    def _end(self, why: str) -> None:
        if self.lost:
            return
        self.lost = True
        if not self._end_told.done():
            self._end_told.set_result(why)
        if self._timer is not None:
            self._timer.cancel()
        futures = [*self._calls.values(), *(done for _, done in self._waiting)]
        for future in futures:
            if not future.done():
                future.set_exception(ConnectionError(why))
