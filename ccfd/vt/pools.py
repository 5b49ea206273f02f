"""Where on a host images and disks are kept.

In a libvirt storage pool of type dir (https://libvirt.org/storage.html#directory-pool), so that
a remote host needs neither a shared file system nor anything of ours.
"""

import posixpath
import uuid

from ccfd.errors import Refused
from ccfd.vt import api, faults, markup
from ccfd.vt.markup import add
from ccfd.vt.session import Session

NAME = "ccf-images"
_UUID = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ccfd:pool:1")
_RACE = frozenset({api.OPERATION_INVALID, api.OPERATION_FAILED})


def definition(path: str) -> str:
    """Write the pool's XML. Its UUID is fixed: two daemons that define it define the same."""
    pool = markup.element("pool", type="dir")
    add(pool, "name", NAME)
    add(pool, "uuid", str(_UUID))
    target = add(pool, "target")
    add(target, "path", path)
    # QEMU runs as a user of its own and must be able to pass; nobody else need look around.
    add(add(target, "permissions"), "mode", "0711")
    return markup.render(pool)


def ensure(session: Session, path: str) -> api.Pool:
    """Return the active pool of the directory *path*, made or started if need be.

    A pool of another name with that directory is used: libvirt allows only one for a directory.
    """
    connection = session.connection
    found = faults.absent(
        api.NO_STORAGE_POOL, lambda: connection.storagePoolLookupByTargetPath(path)
    )
    if found is not None and found.isActive():
        return found
    for pool in connection.listAllStoragePools():
        if _target(pool) == posixpath.normpath(path):
            return _started(session, pool)
    return _started(session, _defined(session, path))


def _defined(session: Session, path: str) -> api.Pool:
    connection = session.connection
    taken = faults.absent(api.NO_STORAGE_POOL, lambda: connection.storagePoolLookupByName(NAME))
    if taken is not None and _target(taken) != posixpath.normpath(path):
        raise Refused(
            "hypervisor_error",
            f"host {session.host} has a storage pool {NAME} of {_target(taken)}, not of {path}: "
            "change hypervisor.pool, or remove that pool",
            details={"host": session.host},
        )
    session.check()
    return taken or connection.storagePoolDefineXML(definition(path))


def _started(session: Session, pool: api.Pool) -> api.Pool:
    if not pool.isActive():
        session.check()
        faults.unless(_RACE, pool.build)
        if not faults.unless(_RACE, pool.create) and not pool.isActive():
            pool.create()
    pool.setAutostart(1)
    return pool


def _target(pool: api.Pool) -> str | None:
    path = markup.parse(pool.XMLDesc()).findtext("target/path")
    return None if path is None else posixpath.normpath(path)
