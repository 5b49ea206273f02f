"""The serial console of a VM, as a stream of libvirt (virDomainOpenConsole).

It works over every connection to libvirtd, and needs no port and no file. An open console has a
connection of its own, in no lane, so that nothing waits for its end. That connection is in nobody's
hands but those of libvirt's event thread (`connections` says why that matters), which reads and
writes as the stream lets it; what it read goes to the event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from ccfd.errors import Refused
from ccfd.vt import api, faults, ours, threads
from ccfd.vt.lane import CONNECT_WITHIN

_PIECE = 4096
"""Bytes written at once: a frozen libvirtd's socket has room for more."""
_READ = 64 * 1024
_TAKEN = frozenset({api.OPERATION_FAILED})
MOST_PENDING = 64 * 1024
"""Bytes that may wait to be written; what a person types or pastes is less."""


class Line:
    """An open serial console. Its methods belong to the event loop, `_tell` to libvirt's thread."""

    def __init__(
        self,
        connection: api.Connection,
        stream: api.Stream,
        heard: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._heard = heard
        self._ended = ended
        self._lock = threading.Lock()
        """Held while what is pending, or what libvirt is to tell, changes."""
        self._pending = bytearray()
        self._is_read = True
        self._is_closed = False

    def begin(self) -> None:
        """Have libvirt tell of what comes."""
        self._stream.eventAddCallback(self._events, self._tell, None)

    def send(self, data: bytes) -> bool:
        """Have *data* written; return False, and write nothing, where too much waits already."""
        with self._lock:
            if len(self._pending) + len(data) > MOST_PENDING:
                return False
            self._pending += data
            self._update()
        return True

    def pause(self) -> None:
        """Read nothing for now; what is under way still comes."""
        with self._lock:
            self._is_read = False
            self._update()

    def resume(self) -> None:
        """Read again."""
        with self._lock:
            self._is_read = True
            self._update()

    def close(self) -> None:
        """Close it, in a thread: libvirtd is told, and waited for."""
        if not self._is_closed:
            self._is_closed = True
            threads.start("serial-close", partial(_close, self._connection, self._stream))

    @property
    def _events(self) -> int:
        wanted = api.STREAM_ENDED
        wanted |= api.STREAM_READABLE if self._is_read else 0
        return wanted | (api.STREAM_WRITABLE if self._pending else 0)

    def _update(self) -> None:
        if not self._is_closed:
            with suppress(api.LibvirtError):  # it has just ended, which `_tell` tells
                self._stream.eventUpdateCallback(self._events)

    def _tell(self, stream: api.Stream, events: int, _opaque: None) -> None:
        """Read and write what can be, and tell of the end."""
        try:
            ended = bool(events & api.STREAM_ENDED)
            if events & api.STREAM_READABLE:
                data = stream.recv(_READ)
                if isinstance(data, bytes):
                    ended = ended or not data
                    self._heard(data)
            if events & api.STREAM_WRITABLE:
                sent = stream.send(bytes(self._pending[:_PIECE]))
                with self._lock:
                    del self._pending[: max(0, sent)]
                    self._update()
        except api.LibvirtError:
            ended = True
        if ended:
            with suppress(api.LibvirtError):
                stream.eventRemoveCallback()
            self._ended()


class Serials:
    """The serial consoles of all hosts' VMs."""

    def __init__(self, uris: Mapping[str, str], connect: api.Connect) -> None:
        self._uris = uris
        self._connect = connect

    async def open(
        self, host: str, vm: str, heard: Callable[[bytes], None], ended: Callable[[], None]
    ) -> Line:
        """Open a VM's console; *heard* and *ended* are called in the event loop.

        Raises `Refused` (`invalid_state`) for a VM that is off, (`console_in_use`) where somebody
        else has it open, and `Transient` where the host does not answer.
        """
        loop = asyncio.get_running_loop()

        def tell(*call: object) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]  # a call and its argument

        opening = threads.start(
            f"serial-{host}",
            partial(self._open, host, vm, partial(tell, heard), partial(tell, ended)),
        )
        try:
            done = await threads.finished(opening, CONNECT_WITHIN)
        except asyncio.CancelledError:
            opening.add_done_callback(_drop)
            raise
        if not done:
            opening.add_done_callback(_drop)
            raise faults.unreachable(host, "opening a serial console takes too long")
        outcome = opening.result()
        if isinstance(outcome, threads.Returned):
            return outcome.value
        if isinstance(outcome.error, api.LibvirtError):
            raise faults.translate(host, outcome.error) from outcome.error
        raise outcome.error

    def _open(
        self, host: str, vm: str, heard: Callable[[bytes], None], ended: Callable[[], None]
    ) -> Line:
        connection = self._connect(self._uris[host])
        try:
            line = Line(connection, _stream(connection, host, vm), heard, ended)
            line.begin()
        except BaseException:
            api.disconnect(connection)
            raise
        return line


def _stream(connection: api.Connection, host: str, vm: str) -> api.Stream:
    domain = faults.absent(api.NO_DOMAIN, lambda: connection.lookupByUUIDString(vm))
    if domain is None or not domain.isActive():
        raise Refused("invalid_state", f"the VM {vm} on host {host} is off")
    if ours.read_owner(domain) is None:
        raise Refused("hypervisor_error", f"the domain {domain.name()} on host {host} is not ours")
    stream = connection.newStream(api.STREAM_NONBLOCK)
    # Without VIR_DOMAIN_CONSOLE_FORCE: nobody is thrown out.
    if not faults.unless(_TAKEN, lambda: domain.openConsole(None, stream, 0)):
        raise Refused("console_in_use", f"the serial console of {vm} is open elsewhere")
    return stream


def _close(connection: api.Connection, stream: api.Stream) -> None:
    with suppress(api.LibvirtError):
        stream.eventRemoveCallback()
    with suppress(api.LibvirtError):
        stream.abort()
    api.disconnect(connection)


def _drop(opening: threads.Job[Line]) -> None:
    outcome = opening.result()
    if isinstance(outcome, threads.Returned):
        outcome.value.close()
