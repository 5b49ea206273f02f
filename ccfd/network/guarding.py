"""Keeps the flows of one switch's guard what its rows say.

Flows are not part of the switch's database: ovs-vswitchd forgets them when it ends. But all that
they say stands in the rows of the VMs' taps, so nobody else has to be asked to set them again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ccfd.errors import CcfdError
from ccfd.network import guard_flows, meters
from ccfd.network.changes import SLICE, VM
from ccfd.network.endpoints import Endpoint
from ccfd.network.guard_flows import Guarded, guarded
from ccfd.network.ofctl import Ofctl
from ccfd.network.ovsdb import Ovsdb
from ccfd.network.rows import InterfaceRow
from ccfd.network.snapshot import has_guard, read_taps, read_taps_of
from ccfd.settings import Tls


@dataclass(frozen=True, slots=True)
class WrongFlows:
    """A VM on *host* whose flows or meter are not what they should be, or some that are no VM's."""

    host: str
    vm: str | None
    slice: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """What a guard has wrong. `taps` and `slices` name its VMs, by their number and their slice."""

    wrong: list[Guarded]
    strange: list[str]
    unlimited: dict[int, int]
    unused: list[int]
    taps: Mapping[int, str]
    slices: Mapping[str, str | None]

    def vms(self) -> list[str]:
        """Return the VMs that lack flows or a meter."""
        return sorted({vm.vm for vm in self.wrong} | {self.taps[n] for n in self.unlimited})


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
        metered = guard_flows.metered(vms)
        if metered:
            # Flows cannot name what is not there.
            async with self._ofctl.turn:
                await self._meter(metered)
        if vms:
            await self._ofctl.change(guard_flows.setting(vms))

    async def _meter(self, metered: Mapping[int, int]) -> None:
        for number, bandwidth in metered.items():
            await self._ofctl.set_meter(meters.meter(number, bandwidth))

    async def forget(self, vms: Collection[str]) -> None:
        """Remove the flows of VMs whose taps go: before these, so that a repeat knows of them."""
        taps = await read_taps_of(self._db, vms) if vms else None
        if taps is None:
            return
        lines = [line for vm in vms for line in guard_flows.removal(guard_flows.cookie(vm))]
        try:
            await self._ofctl.change(lines)
            for number in guard_flows.metered(_vms(taps)):
                async with self._ofctl.turn:
                    await self._ofctl.remove_meter(number)
        except CcfdError:
            # The last tap of another slice may have taken the guard along.
            if await has_guard(self._db):
                raise

    async def look(self) -> list[WrongFlows]:
        """List what the guard lacks, and what is no VM's."""
        if not await has_guard(self._db):
            return []
        async with self._ofctl.turn:
            found = await self._compare()
        return [
            *(
                WrongFlows(self.host, vm, found.slices[vm], "its flows are not as they should be")
                for vm in found.vms()
            ),
            *(
                WrongFlows(self.host, None, None, f"flows with the cookie {name} are no VM's")
                for name in found.strange
            ),
            *(WrongFlows(self.host, None, None, f"meter {n} is no VM's") for n in found.unused),
        ]

    async def restore(self) -> tuple[int, int]:
        """Put back what the guard lacks, remove what is no VM's; return how many VMs it was."""
        if not await has_guard(self._db):
            return 0, 0
        async with self._ofctl.turn:
            found = await self._compare()
            await self._meter(found.unlimited)
            lines = [line for known_by in found.strange for line in guard_flows.removal(known_by)]
            lines += guard_flows.setting(found.wrong)
            if lines:
                await self._ofctl.send(lines)
            for number in found.unused:
                await self._ofctl.remove_meter(number)
        return len(found.vms()), len(found.strange) + len(found.unused)

    async def _compare(self) -> _Differences:
        """Compare what the guard has with the rows.

        Flows and meters are listed before the rows are read: what has flows by then has had its
        row before, unless it is going. Whoever comes meanwhile sets its flows after this.
        """
        present = guard_flows.read(await self._ofctl.dump())
        limits = meters.read(await self._ofctl.dump_meters())
        rows = await read_taps(self._db)
        vms = _vms(rows)
        unlimited, unused = meters.differences(guard_flows.metered(vms), limits)
        wrong, strange = guard_flows.differences(vms, present)
        return _Differences(
            wrong=wrong,
            strange=strange,
            unlimited=unlimited,
            unused=unused,
            taps={vm.tap: vm.vm for vm in vms},
            slices={row.external_ids.get(VM, ""): row.external_ids.get(SLICE) for row in rows},
        )


def _vms(rows: Iterable[InterfaceRow]) -> list[Guarded]:
    return [vm for vm in map(guarded, rows) if vm is not None]
