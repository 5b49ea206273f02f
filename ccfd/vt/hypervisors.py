"""What the daemon holds of libvirt: one lane a host, and the drivers that share them."""

import asyncio
from collections.abc import Mapping

from ccfd.errors import Refused
from ccfd.settings import Settings
from ccfd.vt import api
from ccfd.vt.capacity import Capacity, capacity
from ccfd.vt.disks import Disks
from ccfd.vt.domains import Domains
from ccfd.vt.events import DomainEvents
from ccfd.vt.image_source import ImageSource
from ccfd.vt.images import Images
from ccfd.vt.lane import PROBE_WITHIN, Lane
from ccfd.vt.screens import Screens
from ccfd.vt.serial import Serials
from ccfd.vt.serial_log import SerialLogs
from ccfd.vt.snapshots import Snapshots


class Lanes(dict[str, Lane]):
    """Lanes by host; a host that the settings do not name is refused."""

    def __missing__(self, host: str) -> Lane:
        raise Refused("host_not_found", f"no host {host} in the settings", details={"host": host})


class Hypervisors:
    """All hosts' libvirt. `domains`, `disks` and `images` hold the effects of workflow steps."""

    def __init__(
        self, settings: Settings, source: ImageSource, *, connect: api.Connect = api.connect
    ) -> None:
        hypervisor = settings.hypervisor
        self._hosts = {host.name: host for host in settings.host}
        self._pool = hypervisor.pool
        self._lanes = Lanes(
            (
                host.name,
                Lane(
                    host.name,
                    host.libvirt,
                    concurrency=hypervisor.concurrency,
                    call_timeout=hypervisor.call_timeout,
                    connect=connect,
                ),
            )
            for host in settings.host
        )
        self.domains = Domains(
            self._lanes,
            hypervisor,
            settings.shutdown_grace,
            frozenset(host.name for host in settings.host if host.vnc == "tls"),
        )
        self.screens = Screens(self._lanes, self._hosts)
        self.disks = Disks(self._lanes, hypervisor.pool)
        self.snapshots = Snapshots(self._lanes)
        self.images = Images(self._lanes, source, hypervisor.pool)
        uris = {host.name: host.libvirt for host in settings.host}
        self.serials = Serials(uris, connect)
        self.serial_logs = SerialLogs(self._lanes, hypervisor.pool)
        self.events = DomainEvents(uris, connect)

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes by host; a lookup of an unknown one raises `Refused` (`host_not_found`)."""
        return self._lanes

    async def probe(self, host: str, within: float = PROBE_WITHIN) -> bool:
        """Tell whether *host*'s libvirt answers within so many seconds."""
        return await self._lanes[host].probe(within)

    async def capacity(self, host: str) -> Capacity:
        """Return what *host* has to give; the settings' values go before libvirt's."""
        return await self._lanes[host].call(capacity, self._hosts[host], self._pool)

    async def close(self) -> None:
        """Close every connection, side by side; a host that hangs delays it by 2 s at most."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes.values():
                group.create_task(lane.close())
