"""What ccfd uses of libvirt, with types.

libvirt-python is generated from C and carries no types: this is the only file that imports it.
Every function here blocks: it belongs in a lane's thread. Names are libvirt's own
(https://libvirt.org/html/libvirt-libvirt-domain.html, …-storage.html, …-stream.html).
"""

# ruff: noqa: N802, N803, D102 - the protocols repeat libvirt's names; its pages document them

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import libvirt

LibvirtError: Final[type[Exception]] = libvirt.libvirtError

NO_DOMAIN: Final[int] = libvirt.VIR_ERR_NO_DOMAIN
NO_DOMAIN_METADATA: Final[int] = libvirt.VIR_ERR_NO_DOMAIN_METADATA
NO_DOMAIN_SNAPSHOT: Final[int] = libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT
NO_STORAGE_POOL: Final[int] = libvirt.VIR_ERR_NO_STORAGE_POOL
NO_STORAGE_VOL: Final[int] = libvirt.VIR_ERR_NO_STORAGE_VOL
STORAGE_VOL_EXIST: Final[int] = libvirt.VIR_ERR_STORAGE_VOL_EXIST
OPERATION_FAILED: Final[int] = libvirt.VIR_ERR_OPERATION_FAILED
OPERATION_INVALID: Final[int] = libvirt.VIR_ERR_OPERATION_INVALID

WIRE_DOMAINS: Final = frozenset({libvirt.VIR_FROM_RPC})
UNREACHABLE_CODES: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_GNUTLS_ERROR,
        libvirt.VIR_ERR_UNKNOWN_HOST,
    }
)
HOPELESS_CODES: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_ERR_XML_ERROR,
        libvirt.VIR_ERR_XML_DETAIL,
        libvirt.VIR_ERR_XML_INVALID_SCHEMA,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_DENIED,
        libvirt.VIR_ERR_ACCESS_DENIED,
    }
)

UNDEFINE_ALL: Final[int] = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
STREAM_NONBLOCK: Final[int] = libvirt.VIR_STREAM_NONBLOCK
STREAM_READABLE: Final[int] = libvirt.VIR_STREAM_EVENT_READABLE
STREAM_WRITABLE: Final[int] = libvirt.VIR_STREAM_EVENT_WRITABLE
STREAM_ENDED: Final[int] = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
SHUTDOWN_ACPI: Final[int] = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
LIFECYCLE: Final[int] = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
GRAPHICS_SKIPAUTH: Final[int] = libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH
OLDEST_FIRST: Final[int] = libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL
METADATA_ELEMENT: Final[int] = libvirt.VIR_DOMAIN_METADATA_ELEMENT
VOLUME_PHYSICAL: Final[int] = libvirt.VIR_STORAGE_VOL_GET_PHYSICAL

KEEPALIVE: Final = (2, 2)
"""Seconds between keepalives and how many may be lost: a silent host is noticed in about 6 s."""


class Stream(Protocol):
    """A virStream: bytes to or from a volume or a console; -2 is what would block."""

    def send(self, data: bytes) -> int: ...
    def recv(self, nbytes: int) -> bytes: ...
    def eventAddCallback(self, events: int, cb: Callable[..., None], opaque: None) -> int: ...
    def eventUpdateCallback(self, events: int) -> int: ...
    def eventRemoveCallback(self) -> int: ...
    def finish(self) -> int: ...
    def abort(self) -> int: ...


class Volume(Protocol):
    """A virStorageVol; `infoFlags` gives [type, capacity, allocation or physical size]."""

    def name(self) -> str: ...
    def path(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def infoFlags(self, flags: int = 0) -> list[int]: ...
    def resize(self, capacity: int, flags: int = 0) -> int: ...
    def delete(self, flags: int = 0) -> int: ...
    def upload(self, stream: Stream, offset: int, length: int, flags: int = 0) -> int: ...
    def download(self, stream: Stream, offset: int, length: int, flags: int = 0) -> int: ...


class Pool(Protocol):
    """A virStoragePool; `info` gives [state, capacity, allocation, available] in bytes."""

    def name(self) -> str: ...
    def isActive(self) -> int: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def build(self, flags: int = 0) -> int: ...
    def create(self, flags: int = 0) -> int: ...
    def refresh(self, flags: int = 0) -> int: ...
    def setAutostart(self, autostart: int) -> int: ...
    def info(self) -> list[int]: ...
    def createXML(self, xml: str, flags: int = 0) -> Volume: ...
    def storageVolLookupByName(self, name: str) -> Volume: ...
    def listAllVolumes(self, flags: int = 0) -> list[Volume]: ...


class Domain(Protocol):
    """A virDomain; `state` gives [state, reason]."""

    def name(self) -> str: ...
    def UUIDString(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def isActive(self) -> int: ...
    def isPersistent(self) -> int: ...
    def state(self, flags: int = 0) -> list[int]: ...
    def metadata(self, kind: int, uri: str, flags: int = 0) -> str: ...
    def create(self) -> int: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def pMWakeup(self, flags: int = 0) -> int: ...
    def shutdownFlags(self, flags: int = 0) -> int: ...
    def destroy(self) -> int: ...
    def undefineFlags(self, flags: int = 0) -> int: ...
    def openConsole(self, dev_name: None, st: Stream, flags: int = 0) -> int: ...
    def openGraphicsFD(self, idx: int, flags: int = 0) -> int: ...
    def snapshotCreateXML(self, xml: str, flags: int = 0) -> "Snapshot": ...
    def snapshotLookupByName(self, name: str, flags: int = 0) -> "Snapshot": ...
    def snapshotListNames(self, flags: int = 0) -> list[str]: ...
    def revertToSnapshot(self, snapshot: "Snapshot", flags: int = 0) -> int: ...


class Snapshot(Protocol):
    """A virDomainSnapshot."""

    def getXMLDesc(self, flags: int = 0) -> str: ...
    def delete(self, flags: int = 0) -> int: ...


class Connection(Protocol):
    """A virConnect."""

    def isAlive(self) -> int: ...
    def getLibVersion(self) -> int: ...
    def getInfo(self) -> list[Any]: ...
    def getMemoryStats(self, cell: int, flags: int = 0) -> dict[str, int]: ...
    def getCapabilities(self) -> str: ...
    def newStream(self, flags: int = 0) -> Stream: ...
    def defineXML(self, xml: str) -> Domain: ...
    def lookupByUUIDString(self, uuid: str) -> Domain: ...
    def listAllDomains(self, flags: int = 0) -> list[Domain]: ...
    def storagePoolLookupByName(self, name: str) -> Pool: ...
    def storagePoolLookupByTargetPath(self, path: str) -> Pool: ...
    def listAllStoragePools(self, flags: int = 0) -> list[Pool]: ...
    def storagePoolDefineXML(self, xml: str, flags: int = 0) -> Pool: ...
    def domainEventRegisterAny(
        self, dom: None, eventID: int, cb: Callable[..., None], opaque: None
    ) -> int: ...
    def domainEventDeregisterAny(self, callbackID: int) -> None: ...
    def close(self) -> int: ...


Connect = Callable[[str], Connection]

_started = threading.Lock()
_event_thread: threading.Thread | None = None


def connect(uri: str) -> Connection:
    """Open *uri* with keepalive; block without limit while its libvirtd is frozen.

    Without a running event loop libvirt answers no keepalive and drops the connection
    (virConnectSetKeepAlive), so the loop is started first. There is no close callback: it would
    hold a reference that keeps a closed connection open, and `isAlive` tells the same.
    """
    start_event_loop()
    connection = libvirt.open(uri)
    connection.setKeepAlive(*KEEPALIVE)
    return cast("Connection", connection)


def disconnect(connection: Connection) -> None:
    """Close *connection*; it must be in no other thread's hands."""
    with suppress(LibvirtError):  # gone already, which is what was wanted
        connection.close()


@dataclass(frozen=True, slots=True)
class Subscription:
    """A connection on which libvirtd tells of domains; `number` is the callback's."""

    connection: Connection
    number: int


def subscribe(connection: Connection, changed: Callable[[str], None]) -> Subscription:
    """Have *changed* called with a domain's UUID whenever it starts, stops, pauses, goes on.

    It is called in the thread of libvirt's event loop, and must not block.
    """

    def tell(_connection: object, domain: Domain, *_what: object) -> None:
        changed(domain.UUIDString())

    number = connection.domainEventRegisterAny(None, LIFECYCLE, tell, None)
    return Subscription(connection, number)


def unsubscribe(subscription: Subscription) -> None:
    """End *subscription* and close its connection, which the callback keeps open."""
    with suppress(LibvirtError):  # what is cut off forgets the callback all the same
        subscription.connection.domainEventDeregisterAny(subscription.number)
    disconnect(subscription.connection)


def start_event_loop() -> None:
    """Run libvirt's own event loop in a daemon thread, once a process.

    libvirtaio would bind all connections to one asyncio loop for the life of the process.
    """
    global _event_thread  # noqa: PLW0603 - libvirt's event implementation is global as well
    with _started:
        if _event_thread is not None:
            return
        libvirt.registerErrorHandler(_silent, None)
        libvirt.virEventRegisterDefaultImpl()
        _event_thread = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
        _event_thread.start()


def error_code(exc: BaseException) -> int:
    """Return the virErrorNumber of a `LibvirtError`, 0 for any other exception."""
    return int(exc.get_error_code() or 0) if isinstance(exc, libvirt.libvirtError) else 0


def error_domain(exc: BaseException) -> int:
    """Return the virErrorDomain of a `LibvirtError`, 0 for any other exception."""
    return int(exc.get_error_domain() or 0) if isinstance(exc, libvirt.libvirtError) else 0


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except LibvirtError:
            # Without this thread every connection would drop at its next keepalive.
            time.sleep(0.1)


def _silent(_opaque: object, _error: object) -> None:
    """Take the place of libvirt's default handler, which prints every error to stderr."""
