"""How files are made, filled, read and removed in a host's pool.

All by libvirt's storage API and its streams (https://libvirt.org/html/libvirt-libvirt-storage.html):
nothing here is a path on this machine.
"""

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from xml.etree.ElementTree import Element

from ccfd.vt import api, faults, markup
from ccfd.vt.markup import add
from ccfd.vt.session import Session

CHUNK = 256 * 1024 - 24
"""Bytes a stream message carries at most (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX): 262,120."""

_EXISTS = frozenset({api.STORAGE_VOL_EXIST, api.OPERATION_INVALID})
_GONE = frozenset({api.NO_STORAGE_VOL})


def plain(name: str, capacity: int = 0, *, mode: str = "0644") -> str:
    """Write the XML of a file of bytes; writing past its end makes it longer.

    Mode 0644: QEMU, which runs as a user of its own, reads base images and seeds.
    """
    volume, target = _volume(name, capacity, "raw")
    add(add(target, "permissions"), "mode", mode)
    return markup.render(volume)


def overlay(name: str, capacity: int, backing: str) -> str:
    """Write the XML of a qcow2 file of *capacity* bytes that keeps changes to file *backing*."""
    volume, target = _volume(name, capacity, "qcow2")
    add(target, "compat", "1.1")
    backing_store = add(volume, "backingStore")
    add(backing_store, "path", backing)
    add(backing_store, "format", type="qcow2")
    return markup.render(volume)


def find(pool: api.Pool, name: str) -> api.Volume | None:
    """Return the volume *name*, if its file is there.

    libvirt keeps a list of its own; reading the description makes it look at the file.
    """
    volume = faults.absent(api.NO_STORAGE_VOL, lambda: pool.storageVolLookupByName(name))
    if volume is None or faults.absent(api.NO_STORAGE_VOL, volume.XMLDesc) is None:
        return None
    return volume


def create(session: Session, pool: api.Pool, name: str, xml: str) -> api.Volume:
    """Make the volume *name*, which has one owner: a file of that name that is there is removed.

    Such a file was overlooked by libvirt, which reads the directory only at a refresh.
    """
    made = _created(session, pool, xml)
    if made is None:
        delete(session, pool, name)
        session.check()
        made = pool.createXML(xml)
    return made


def adopt(session: Session, pool: api.Pool, name: str, xml: str) -> api.Volume:
    """Make the volume *name*, or take the one that somebody else has made meanwhile."""
    made = _created(session, pool, xml) or find(pool, name)
    if made is None:  # libvirt knew a volume whose file is gone
        session.check()
        made = pool.createXML(xml)
    return made


def delete(session: Session, pool: api.Pool, name: str) -> None:
    """Remove the volume *name*; gone is success."""
    volume = faults.absent(api.NO_STORAGE_VOL, lambda: pool.storageVolLookupByName(name))
    if volume is not None:
        session.check()
        faults.unless(_GONE, volume.delete)


def learn(session: Session, pool: api.Pool, name: str) -> bool:
    """Have libvirt know the file *name*, which somebody else makes; tell whether it is there."""
    made = _created(session, pool, plain(name))
    if made is None:
        return True
    faults.unless(_GONE, made.delete)
    return False


def length(volume: api.Volume) -> int:
    """Return the file's length in bytes; `info` would give what a qcow2 inside it describes."""
    return volume.infoFlags(api.VOLUME_PHYSICAL)[2]


def backing_path(volume: api.Volume) -> str | None:
    """Return the normalised path of the file that *volume* keeps changes to."""
    path = markup.parse(volume.XMLDesc()).findtext("backingStore/path")
    return None if path is None else posixpath.normpath(path)


def upload(session: Session, volume: api.Volume, chunks: Iterable[bytes]) -> None:
    """Write *chunks* to *volume* from its start."""
    with _stream(session) as stream:
        volume.upload(stream, 0, 0)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                session.check()
                rest = rest[stream.send(bytes(rest[:CHUNK])) :]


def download(
    session: Session, volume: api.Volume, start: int = 0, length: int = 0
) -> Iterator[bytes]:
    """Read *length* bytes of *volume* from byte number *start*; 0: all to its end."""
    with _stream(session) as stream:
        volume.download(stream, start, length)
        while chunk := stream.recv(CHUNK):
            session.check()
            yield chunk


@contextmanager
def _stream(session: Session) -> Iterator[api.Stream]:
    """Open a stream and finish it; abort it on an error, so that the connection stays usable."""
    stream = session.connection.newStream()
    try:
        yield stream
    except BaseException:
        with suppress(api.LibvirtError):  # the error that led here says more
            stream.abort()
        raise
    stream.finish()


def _created(session: Session, pool: api.Pool, xml: str) -> api.Volume | None:
    """Make a volume; None where a file of its name is there, which libvirt knows from now on."""
    session.check()
    try:
        return pool.createXML(xml)
    except api.LibvirtError as exc:
        if api.error_code(exc) not in _EXISTS:
            raise
    pool.refresh()
    return None


def _volume(name: str, capacity: int, kind: str) -> tuple[Element, Element]:
    volume = markup.element("volume")
    add(volume, "name", name)
    add(volume, "capacity", str(capacity), unit="bytes")
    if kind == "raw":
        add(volume, "allocation", "0")
    target = add(volume, "target")
    add(target, "format", type=kind)
    return volume, target
