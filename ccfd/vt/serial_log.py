"""What a VM has written to its serial console since its last start, whoever looked.

QEMU hands it to virtlogd (`stdio_handler` of qemu.conf, as distributions have it), which writes
it to a file and begins a new one after 2 MiB (virtlogd.conf), so that no guest fills the disk: the
older ones are FILE.0, FILE.1 and so on. The file is made as a volume of the pool before, for then
libvirt knows it without having to read the directory again, and it can be read by libvirt's streams
from wherever ccfd is (docs/adr/0025).
"""

from collections.abc import Mapping

from ccfd.model import names
from ccfd.vt import api, pools, volumes
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session

MOST = 64 * 1024
"""Bytes that are read of it: the last ones."""


class SerialLogs:
    """The logs of all hosts' VMs."""

    def __init__(self, lanes: Mapping[str, Lane], pool: str) -> None:
        self._lanes = lanes
        self._pool = pool

    async def read(self, host: str, vm: str) -> bytes:
        """Return the end of what the VM has written; nothing where none is kept.

        Raises `CcfdError`.
        """
        return await self._lanes[host].call(_read, vm, self._pool)


def _read(session: Session, vm: str, directory: str) -> bytes:
    volume = volumes.find(pools.ensure(session, directory), names.serial_log(vm))
    if volume is None:
        return b""
    length = volumes.length(volume)
    # Not to its end: it may grow faster than it is read.
    return b"".join(
        volumes.download(session, volume, max(0, length - MOST), min(length, MOST) or 1)
    )


def make(session: Session, pool: api.Pool, vm: str) -> None:
    """Have the file of a VM's log; what is in it stays."""
    name = names.serial_log(vm)
    if volumes.find(pool, name) is None:
        # Of all who are on the host only root reads it: guests write secrets there.
        volumes.create(session, pool, name, volumes.plain(name, mode="0600"))


def remove(session: Session, pool: api.Pool, vm: str) -> None:
    """Leave nothing of a VM's log."""
    name = names.serial_log(vm)
    volumes.delete(session, pool, name)
    older = f"{name}.0"
    # libvirt knows nothing of it, if it is there; where it is, there may be more.
    if not volumes.learn(session, pool, older):
        return
    for volume in pool.listAllVolumes():
        if volume.name().startswith(f"{name}."):
            volumes.delete(session, pool, volume.name())
