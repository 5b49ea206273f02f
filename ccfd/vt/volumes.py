"""How are files made, filled, read and removed in a host's pool?

All by libvirt's storage API and its streams (https://libvirt.org/html/libvirt-libvirt-storage.html):
nothing here is a path on this machine.
"""

import posixpath
from collections.abc import Iterable, Iterator

from ccfd.vt import api, faults, markup
from ccfd.vt.lane import Session
from ccfd.vt.markup import add

CHUNK = 256 * 1024 - 24
"""Bytes a stream message carries at most (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX): 262,120."""

_EXISTS = frozenset({api.STORAGE_VOL_EXIST, api.OPERATION_INVALID})
_GONE = frozenset({api.NO_STORAGE_VOL})


def plain(name: str, capacity: int = 0) -> str:
    """Write the XML of a file of bytes; writing past its end makes it longer.

    Mode 0644: QEMU, which runs as a user of its own, reads base images and seeds.
    """
    volume, target = _volume(name, capacity, "raw")
    add(add(target, "permissions"), "mode", "0644")
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
    """Make the volume *name*; a file of that name that libvirt has overlooked is removed."""
    session.check()
    try:
        return pool.createXML(xml)
    except api.LibvirtError as exc:
        if api.error_code(exc) not in _EXISTS:
            raise
    pool.refresh()
    delete(session, pool, name)
    session.check()
    return pool.createXML(xml)


def delete(session: Session, pool: api.Pool, name: str) -> None:
    """Remove the volume *name*; gone is success."""
    volume = faults.absent(api.NO_STORAGE_VOL, lambda: pool.storageVolLookupByName(name))
    if volume is not None:
        session.check()
        faults.unless(_GONE, volume.delete)


def length(volume: api.Volume) -> int:
    """Return the file's length in bytes; `info` would give what a qcow2 inside it describes."""
    return volume.infoFlags(api.VOLUME_PHYSICAL)[2]


def backing_path(volume: api.Volume) -> str | None:
    """Return the normalised path of the file that *volume* keeps changes to."""
    path = markup.parse(volume.XMLDesc()).findtext("backingStore/path")
    return None if path is None else posixpath.normpath(path)


def upload(session: Session, volume: api.Volume, chunks: Iterable[bytes]) -> None:
    """Write *chunks* to *volume* from its start."""
    stream = session.connection.newStream()
    volume.upload(stream, 0, 0)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                session.check()
                rest = rest[stream.send(bytes(rest[:CHUNK])) :]
    except BaseException:
        faults.unless(frozenset(range(256)), stream.abort)
        raise
    stream.finish()


def download(session: Session, volume: api.Volume) -> Iterator[bytes]:
    """Read *volume* from its start to its end."""
    stream = session.connection.newStream()
    volume.download(stream, 0, 0)
    while chunk := stream.recv(CHUNK):
        yield chunk
    stream.finish()


def _volume(name: str, capacity: int, kind: str) -> tuple[markup.ET.Element, markup.ET.Element]:
    volume = markup.element("volume")
    add(volume, "name", name)
    add(volume, "capacity", str(capacity), unit="bytes")
    if kind == "raw":
        add(volume, "allocation", "0")
    target = add(volume, "target")
    add(target, "format", type=kind)
    return volume, target
