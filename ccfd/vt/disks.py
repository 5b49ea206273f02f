"""How a VM gets its disk, its seed, and a file for what it writes to its serial console."""

import re
from collections.abc import Mapping

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.vm import Disk
from ccfd.vt import api, faults, images, pools, seed, serial_log, volumes
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session

_BYTES_IN_GIB = 1 << 30
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OF_A_VM = re.compile(rf"ccf-{_UUID}(\.qcow2|-seed\.iso|\.log(\.[0-9]+)?)")
_EMPTY_OVERLAY = 3 << 16
"""Bytes of an overlay with nothing in it: header, refcount table and block, a cluster each."""


class Disks:
    """The VMs' files in the hosts' pools; every effect may be repeated at any time."""

    def __init__(self, lanes: Mapping[str, Lane], pool: str) -> None:
        self._lanes = lanes
        self._pool = pool

    async def make(self, disk: Disk) -> None:
        """Have *disk*'s overlay and seed, and the VM's log, in the host's pool.

        What is there and equal is left alone, what differs or is half-made is replaced. Raises
        `Refused` (`image_not_found`) when the base image is not whole on the host.
        """
        lane = self._lanes[disk.host]
        await lane.effect(disk.vm, lane.call_timeout, _make, disk, self._pool)

    async def grow(self, disk: Disk) -> None:
        """Make *disk*'s overlay, which no domain has open, as large as it says; never smaller.

        Raises `Refused` where it is not there.
        """
        lane = self._lanes[disk.host]
        await lane.effect(disk.vm, lane.call_timeout, _grow, disk, self._pool)

    async def remove(self, disk: Disk) -> None:
        """Leave nothing of *disk* in the host's pool; nothing there is success."""
        lane = self._lanes[disk.host]
        await lane.effect(disk.vm, lane.call_timeout, _remove, disk, self._pool)

    async def inventory(self, host: str) -> frozenset[str]:
        """Name the volumes in *host*'s pool that are VMs'; base images are not."""
        return await self._lanes[host].call(_inventory, self._pool)


def capacity(disk: Disk) -> int:
    """Return the overlay's size in bytes: never less than the image's own disk."""
    return max(disk.size * _BYTES_IN_GIB, disk.image.virtual_size)


def _make(session: Session, disk: Disk, directory: str) -> None:
    pool = pools.ensure(session, directory)
    base = images.complete(pool, disk.image)
    if base is None:
        raise Refused(
            "image_not_found",
            f"image {disk.image.name} is not whole on host {disk.host}: send the request again",
            details={"image": disk.image.name, "host": disk.host},
        )
    _overlay(session, pool, disk, base.path())
    _seed(session, pool, disk)
    serial_log.make(session, pool, disk.vm)


def _overlay(session: Session, pool: api.Pool, disk: Disk, base: str) -> None:
    name = names.disk_volume(disk.vm)
    present = volumes.find(pool, name)
    if present is not None:
        whole = volumes.length(present) >= _EMPTY_OVERLAY
        same_size = present.infoFlags()[1] == capacity(disk)
        if whole and same_size and volumes.backing_path(present) == base:
            return
        volumes.delete(session, pool, name)
    volumes.create(session, pool, name, volumes.overlay(name, capacity(disk), base))


def _seed(session: Session, pool: api.Pool, disk: Disk) -> None:
    name = names.seed_volume(disk.vm)
    wanted = seed.build(disk.vm, disk.hostname, disk.ssh_keys, disk.link)
    present = volumes.find(pool, name)
    if present is not None:
        if volumes.length(present) == len(wanted) and wanted == b"".join(
            volumes.download(session, present)
        ):
            return
        volumes.delete(session, pool, name)
    volume = volumes.create(session, pool, name, volumes.plain(name))
    volumes.upload(session, volume, [wanted])


def _grow(session: Session, disk: Disk, directory: str) -> None:
    name = names.disk_volume(disk.vm)
    volume = volumes.find(pools.ensure(session, directory), name)
    if volume is None:
        raise Refused("hypervisor_error", f"host {disk.host} has no {name}: its disk is lost")
    if volume.infoFlags()[1] < capacity(disk):
        session.check()
        volume.resize(capacity(disk))


def _remove(session: Session, disk: Disk, directory: str) -> None:
    pool = pools.ensure(session, directory)
    serial_log.remove(session, pool, disk.vm)
    volumes.delete(session, pool, names.seed_volume(disk.vm))
    volumes.delete(session, pool, names.disk_volume(disk.vm))


def _inventory(session: Session, directory: str) -> frozenset[str]:
    pool = pools.ensure(session, directory)
    # libvirt keeps a list of its own; reading the description makes it look at the file.
    return frozenset(
        volume.name()
        for volume in pool.listAllVolumes()
        if _OF_A_VM.fullmatch(volume.name())
        and faults.absent(api.NO_STORAGE_VOL, volume.XMLDesc) is not None
    )
