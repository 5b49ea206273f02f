"""How a VM's snapshots are taken, gone back to and deleted.

They are internal ones: in the VM's own qcow2 disk, with the memory of a VM that is not off
(https://libvirt.org/formatsnapshot.html). They go with the disk.
"""

from collections.abc import Mapping
from typing import Any

from ccfd.errors import Refused
from ccfd.model.vm import Revert, Snapshot
from ccfd.vt import api, faults, markup, ours
from ccfd.vt.domains import STATES
from ccfd.vt.lane import Lane
from ccfd.vt.markup import add
from ccfd.vt.session import Session

_GONE = frozenset({api.NO_DOMAIN, api.NO_DOMAIN_SNAPSHOT})


class Snapshots:
    """The snapshots on all hosts; every effect may be repeated at any time."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes

    async def take(self, snapshot: Snapshot) -> None:
        """Take *snapshot*, unless it is there. The VM stands still meanwhile, if it runs.

        Raises `Refused` (`invalid_state`) where the domain has another one of that name.
        """
        lane = self._lanes[snapshot.machine.host]
        await lane.effect(snapshot.machine.vm, lane.call_timeout, _take, snapshot)

    async def take_back(self, snapshot: Snapshot) -> None:
        """Delete *snapshot*; not there, or another of that name, is success."""
        lane = self._lanes[snapshot.machine.host]
        await lane.effect(snapshot.machine.vm, lane.call_timeout, _take_back, snapshot)

    async def revert(self, revert: Revert) -> dict[str, Any]:
        """Have a VM that is off be as it was at its snapshot; one that is not off is so already.

        Returns `{"state": …}`: `running`, `paused` or `shutoff`, as it was when it was taken.
        Raises `Refused` where the snapshot is not there.
        """
        machine = revert.start.machine
        lane = self._lanes[machine.host]
        state = await lane.effect(machine.vm, lane.call_timeout, _revert, machine.vm, revert.name)
        return {"state": state}

    async def delete(self, snapshot: Snapshot) -> None:
        """Delete the snapshot of that name; not there is success."""
        lane = self._lanes[snapshot.machine.host]
        await lane.effect(snapshot.machine.vm, lane.call_timeout, _delete, snapshot)


def _take(session: Session, snapshot: Snapshot) -> None:
    domain = _domain(session, snapshot.machine.vm)
    present = _find(domain, snapshot.name)
    if present is None:
        wanted = markup.element("domainsnapshot")
        add(wanted, "name", snapshot.name)
        add(wanted, "description", snapshot.mark)
        session.check()
        domain.snapshotCreateXML(markup.render(wanted))
    elif _mark(present) != snapshot.mark:
        raise Refused(
            "invalid_state",
            f"host {session.host} has a snapshot {snapshot.name} of VM {snapshot.machine.vm} that "
            "is not this one; it is left alone: choose another name",
        )


def _take_back(session: Session, snapshot: Snapshot) -> None:
    domain = ours.find(session, snapshot.machine.vm)
    present = None if domain is None else _find(domain, snapshot.name)
    if present is not None and _mark(present) == snapshot.mark:
        session.check()
        faults.unless(_GONE, present.delete)


def _revert(session: Session, vm: str, name: str) -> str:
    domain = _domain(session, vm)
    if not domain.isActive():
        snapshot = _find(domain, name)
        if snapshot is None:
            raise Refused(
                "hypervisor_error",
                f"host {session.host} has no snapshot {name} of VM {vm} any more: delete it",
            )
        session.check()
        domain.revertToSnapshot(snapshot)
    return STATES.get(domain.state()[0], "running")


def _delete(session: Session, snapshot: Snapshot) -> None:
    domain = ours.find(session, snapshot.machine.vm)
    present = None if domain is None else _find(domain, snapshot.name)
    if domain is not None and present is not None:
        ours.owner(session, domain)
        session.check()
        faults.unless(_GONE, present.delete)


def _domain(session: Session, vm: str) -> api.Domain:
    domain = ours.find(session, vm)
    if domain is None:
        raise Refused("hypervisor_error", f"host {session.host} has no domain of VM {vm}")
    ours.owner(session, domain)
    return domain


def _find(domain: api.Domain, name: str) -> api.Snapshot | None:
    return faults.absent(api.NO_DOMAIN_SNAPSHOT, lambda: domain.snapshotLookupByName(name))


def _mark(snapshot: api.Snapshot) -> str:
    return markup.parse(snapshot.getXMLDesc()).findtext("description") or ""
