"""Keeps the flows of one switch's guard what its rows say.

Flows are not part of the switch's database: ovs-vswitchd forgets them when it ends. But all that
they say stands in the rows of the VMs' taps, so nobody else has to be asked to set them again.
"""

from collections.abc import Collection, Iterable

from ccfd.errors import CcfdError
from ccfd.network import guard_flows
from ccfd.network.endpoints import Endpoint
from ccfd.network.guard_flows import Guarded, guarded
from ccfd.network.ofctl import Ofctl
from ccfd.network.ovsdb import Ovsdb
from ccfd.network.rows import InterfaceRow
from ccfd.network.snapshot import has_guard, read_taps
from ccfd.settings import Tls


class Guarding:
    """The guard of *host*'s switch, whose flows are set at *place*."""

    def __init__(self, host: str, db: Ovsdb, place: Endpoint, tls: Tls) -> None:
        self.host = host
        self.place = place
        self._db = db
        self._ofctl = Ofctl(host, place, tls)

    async def set(self, rows: Iterable[InterfaceRow]) -> None:
        """Give the VMs of these taps their flows, and none but these."""
        vms = _vms(rows)
        if vms:
            await self._ofctl.change(guard_flows.setting(vms))

    async def forget(self, vms: Collection[str]) -> None:
        """Remove the flows of VMs whose taps go: before these, so that a repeat knows of them."""
        if not vms or not await has_guard(self._db):
            return
        lines = [line for vm in vms for line in guard_flows.removal(guard_flows.cookie(vm))]
        try:
            await self._ofctl.change(lines)
        except CcfdError:
            # The last tap of another slice may have taken the guard along.
            if await has_guard(self._db):
                raise

    async def restore(self) -> tuple[int, int]:
        """Put back what the guard lacks, remove what is no VM's; return how many VMs it was.

        Flows are listed before the rows are read: what has flows by then has had its row before,
        unless it is going. Whoever comes meanwhile sets its flows after this.
        """
        if not await has_guard(self._db):
            return 0, 0
        async with self._ofctl.turn:
            present = guard_flows.read(await self._ofctl.dump())
            vms = _vms(await read_taps(self._db))
            wrong, strange = guard_flows.differences(vms, present)
            lines = [line for known_by in strange for line in guard_flows.removal(known_by)]
            lines += guard_flows.setting(wrong)
            if lines:
                await self._ofctl.send(lines)
        return len(wrong), len(strange)


def _vms(rows: Iterable[InterfaceRow]) -> list[Guarded]:
    return [vm for vm in map(guarded, rows) if vm is not None]
