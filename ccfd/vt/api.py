"""What of libvirt does ccfd use, and with which types?

libvirt-python is generated from C and carries no types: this is the only file that imports it.
Every function here blocks: it belongs in a lane's thread. Names are libvirt's own
(https://libvirt.org/html/libvirt-libvirt-domain.html, …-storage.html, …-stream.html).
"""

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import libvirt

LibvirtError: Final[type[Exception]] = libvirt.libvirtError

NO_DOMAIN: Final[int] = libvirt.VIR_ERR_NO_DOMAIN
NO_DOMAIN_METADATA: Final[int] = libvirt.VIR_ERR_NO_DOMAIN_METADATA
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
METADATA_ELEMENT: Final[int] = libvirt.VIR_DOMAIN_METADATA_ELEMENT
VOLUME_PHYSICAL: Final[int] = libvirt.VIR_STORAGE_VOL_GET_PHYSICAL

KEEPALIVE: Final = (2, 2)
"""Seconds between keepalives and how many may be lost: a silent host is noticed in about 6 s."""


class Stream(Protocol):
    """A virStream: bytes to or from a volume."""

    def send(self, data: bytes) -> int: ...
    def recv(self, nbytes: int) -> bytes: ...
    def finish(self) -> int: ...
    def abort(self) -> int: ...


class Volume(Protocol):
    """A virStorageVol; `infoFlags` gives [type, capacity, allocation or physical size]."""

    def name(self) -> str: ...
    def path(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802 - libvirt's name
    def infoFlags(self, flags: int = 0) -> list[int]: ...  # noqa: N802
    def delete(self, flags: int = 0) -> int: ...
    def upload(self, stream: Stream, offset: int, length: int, flags: int = 0) -> int: ...
    def download(self, stream: Stream, offset: int, length: int, flags: int = 0) -> int: ...


class Pool(Protocol):
    """A virStoragePool; `info` gives [state, capacity, allocation, available] in bytes."""

    def name(self) -> str: ...
    def isActive(self) -> int: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def build(self, flags: int = 0) -> int: ...
    def create(self, flags: int = 0) -> int: ...
    def refresh(self, flags: int = 0) -> int: ...
    def setAutostart(self, autostart: int) -> int: ...  # noqa: N802
    def info(self) -> list[int]: ...
    def createXML(self, xml: str, flags: int = 0) -> Volume: ...  # noqa: N802
    def storageVolLookupByName(self, name: str) -> Volume: ...  # noqa: N802
    def listAllVolumes(self, flags: int = 0) -> list[Volume]: ...  # noqa: N802


class Domain(Protocol):
    """A virDomain; `state` gives [state, reason]."""

    def name(self) -> str: ...
    def UUIDString(self) -> str: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def isActive(self) -> int: ...  # noqa: N802
    def isPersistent(self) -> int: ...  # noqa: N802
    def state(self, flags: int = 0) -> list[int]: ...
    def metadata(self, kind: int, uri: str, flags: int = 0) -> str: ...
    def create(self) -> int: ...
    def resume(self) -> int: ...
    def pMWakeup(self, flags: int = 0) -> int: ...  # noqa: N802
    def destroy(self) -> int: ...
    def undefineFlags(self, flags: int = 0) -> int: ...  # noqa: N802


class Connection(Protocol):
    """A virConnect."""

    def isAlive(self) -> int: ...  # noqa: N802
    def getLibVersion(self) -> int: ...  # noqa: N802
    def getInfo(self) -> list[Any]: ...  # noqa: N802
    def getMemoryStats(self, cell: int, flags: int = 0) -> dict[str, int]: ...  # noqa: N802
    def getCapabilities(self) -> str: ...  # noqa: N802
    def newStream(self, flags: int = 0) -> Stream: ...  # noqa: N802
    def defineXML(self, xml: str) -> Domain: ...  # noqa: N802
    def lookupByUUIDString(self, uuid: str) -> Domain: ...  # noqa: N802
    def listAllDomains(self, flags: int = 0) -> list[Domain]: ...  # noqa: N802
    def storagePoolLookupByName(self, name: str) -> Pool: ...  # noqa: N802
    def storagePoolLookupByTargetPath(self, path: str) -> Pool: ...  # noqa: N802
    def listAllStoragePools(self, flags: int = 0) -> list[Pool]: ...  # noqa: N802
    def storagePoolDefineXML(self, xml: str, flags: int = 0) -> Pool: ...  # noqa: N802
    def unregisterCloseCallback(self) -> int: ...  # noqa: N802
    def close(self) -> int: ...


OnClose = Callable[[int], None]
"""Called in libvirt's event thread with virConnectCloseReason: 0 error, 1 EOF, 2 keepalive."""

Connect = Callable[[str, OnClose], Connection]

_started = threading.Lock()
_event_thread: threading.Thread | None = None


def connect(uri: str, on_close: OnClose) -> Connection:
    """Open *uri* with keepalive; block without limit when its libvirtd is frozen.

    Without a running event loop libvirt answers no keepalive and drops the connection
    (virConnectSetKeepAlive), so the loop is started first.
    """
    start_event_loop()
    connection = libvirt.open(uri)
    try:
        connection.registerCloseCallback(_closed, on_close)
        connection.setKeepAlive(*KEEPALIVE)
    except libvirt.libvirtError as exc:
        # Drivers without a wire (test:///default) know neither.
        if exc.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            connection.close()
            raise
    return cast("Connection", connection)


def disconnect(connection: Connection) -> None:
    """Close *connection*: the callback holds a reference that would keep it open."""
    for end in (connection.unregisterCloseCallback, connection.close):
        try:
            end()
        except LibvirtError:
            continue  # it is gone already, which is what was wanted


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
        libvirt.virEventRunDefaultImpl()


def _closed(_connection: object, reason: int, on_close: OnClose) -> None:
    on_close(reason)


def _silent(_opaque: object, _error: object) -> None:
    """Take the place of libvirt's default handler, which prints every error to stderr."""
