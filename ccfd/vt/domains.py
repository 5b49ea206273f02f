"""How a VM's domain comes to run on its host, and goes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ccfd.errors import Refused, Transient
from ccfd.model.vm import Machine, Stop
from ccfd.settings import Hypervisor
from ccfd.vt import api, domain_xml, faults, metadata, ours, shutdown
from ccfd.vt.capacity import domain_type
from ccfd.vt.lane import Lane
from ccfd.vt.session import Session

STATES = {
    0: "running",  # VIR_DOMAIN_NOSTATE: a driver that cannot tell
    1: "running",
    2: "running",  # blocked on a resource
    3: "paused",
    4: "stopping",
    5: "shutoff",
    6: "crashed",
    7: "paused",  # suspended by the guest's power management
}
"""virDomainState to the contract's words."""

REASONS = {
    1: "shutdown",
    2: "destroyed",
    3: "crashed",
    4: "migrated",
    5: "saved",
    6: "failed",
    7: "from_snapshot",
    8: "daemon",
}
"""virDomainShutoffReason; 0 is `unknown`: off since libvirtd, or the host, began."""

_GONE = frozenset({api.NO_DOMAIN})
_GONE_OR_IDLE = frozenset({api.NO_DOMAIN, api.OPERATION_INVALID})
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A domain of ours on a host, with what it says about itself.

    `reason` is libvirt's word for why it is off (`REASONS`); empty for one that is not.
    `snapshots` are the names of its snapshots, oldest first.
    """

    vm: str
    state: str
    reason: str = ""
    owner: metadata.Owner
    snapshots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """What of a domain its machine does not say."""

    settings: Hypervisor
    remote_screen: bool


class Domains:
    """The domains of all hosts; every effect may be repeated at any time.

    A guest has `shutdown_grace` seconds to end by itself. VMs of the hosts `remote_screens` have
    their screens on the network.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        settings: Hypervisor,
        shutdown_grace: float,
        remote_screens: Collection[str] = (),
    ) -> None:
        self._lanes = lanes
        self._settings = settings
        self._shutdown_grace = shutdown_grace
        self._remote_screens = remote_screens

    async def boot(self, machine: Machine) -> dict[str, Any] | None:
        """Make *machine* run, as it says; its disk and seed must be there.

        One that runs and is equal is left alone; one that differs is replaced. Returns
        `{"state": "running"}`. Raises `Refused` for a domain with the VM's UUID that is not ours.
        """
        lane = self._lanes[machine.host]
        state = await lane.effect(
            machine.vm, lane.call_timeout, _boot, machine, self._form(machine)
        )
        return {"state": state}

    async def stop(self, stop: Stop) -> dict[str, Any]:
        """Ask *stop*'s guest to shut down, then cut its power; it stays defined.

        Returns `{"state": "shutoff"}`, also for one that is not there.
        """
        machine = stop.machine
        if not stop.force:
            await shutdown.by_guest(self._lanes[machine.host], machine.vm, self._shutdown_grace)
        await self.power_off(machine)
        return {"state": "shutoff"}

    async def suspend(self, machine: Machine) -> dict[str, Any]:
        """Have *machine* stand still. Returns `{"state": "paused"}`.

        Raises `Refused` (`invalid_state`) for one that is off, or not there.
        """
        lane = self._lanes[machine.host]
        await lane.effect(machine.vm, lane.call_timeout, _suspend, machine.vm)
        return {"state": "paused"}

    async def resume(self, machine: Machine) -> dict[str, Any]:
        """Have *machine* go on. Returns `{"state": "running"}`.

        Raises `Refused` (`invalid_state`) for one that is off, or not there.
        """
        lane = self._lanes[machine.host]
        await lane.effect(machine.vm, lane.call_timeout, _resume, machine.vm)
        return {"state": "running"}

    async def redefine(self, machine: Machine) -> None:
        """Have *machine*'s domain, which is off, be as it says at its next start."""
        lane = self._lanes[machine.host]
        await lane.effect(machine.vm, lane.call_timeout, _redefine, machine, self._form(machine))

    async def power_off(self, machine: Machine) -> None:
        """End *machine*'s domain as a cut power line would; it stays defined.

        One that is off, or not there, is success. Raises `Refused` for one that is not ours.
        """
        lane = self._lanes[machine.host]
        await lane.effect(machine.vm, lane.call_timeout, _power_off, machine.vm)

    async def destroy(self, machine: Machine) -> None:
        """Leave nothing of *machine*'s domain; nothing there is success.

        Raises `Refused` for a domain with the VM's UUID that is not ours.
        """
        lane = self._lanes[machine.host]
        await lane.effect(machine.vm, lane.call_timeout, _destroy, machine.vm)

    def _form(self, machine: Machine) -> Form:
        return Form(self._settings, machine.host in self._remote_screens)

    async def find(self, host: str, vm: str) -> Found | None:
        """Return the domain of the VM on *host*; None where there is none that is ours."""
        return await self._lanes[host].call(_find, vm)

    async def state(self, host: str, vm: str) -> str | None:
        """Return `running`, `paused`, `stopping`, `shutoff` or `crashed`; None: no such domain."""
        return await self._lanes[host].call(_state, vm)

    async def inventory(self, host: str) -> tuple[Found, ...]:
        """List the domains on *host* that carry our metadata."""
        return await self._lanes[host].call(_inventory)


def _boot(session: Session, machine: Machine, form: Form) -> str:
    domain = ours.find(session, machine.vm)
    if domain is not None and ours.owner(session, domain).digest != metadata.digest(machine):
        # Not undefined: that would forget its snapshots, which its disk still holds.
        _power_off(session, machine.vm)
        domain = None
    if domain is None or not domain.isPersistent():
        domain = _define(session, machine, form)
    _run(session, domain)
    return "running"


def _define(session: Session, machine: Machine, form: Form) -> api.Domain:
    definition = domain_xml.definition(
        machine,
        form.settings.pool,
        domain_type(session, form.settings),
        remote_screen=form.remote_screen,
        serial_log=form.settings.serial_log,
    )
    session.check()
    return session.connection.defineXML(definition)


def _redefine(session: Session, machine: Machine, form: Form) -> None:
    domain = ours.find(session, machine.vm)
    if domain is not None:
        ours.owner(session, domain)
    _define(session, machine, form)


def _run(session: Session, domain: api.Domain) -> None:
    """Bring *domain* from whatever state it is in to running."""
    number = domain.state()[0]
    session.check()
    if number == 4:
        raise Transient(
            "hypervisor_error",
            f"{domain.name()} on host {session.host} is shutting down",
            retry_in=1,
        )
    if STATES.get(number) == "running":
        return
    begin = {3: domain.resume, 7: domain.pMWakeup}.get(number, domain.create)
    # Paused is also what another's start looks like until it is done; then this one is refused.
    begun = faults.unless(frozenset({api.OPERATION_INVALID}), begin)
    if not begun and STATES.get(domain.state()[0]) != "running":
        raise Transient("hypervisor_error", f"{domain.name()} on host {session.host} did not start")


def _suspend(session: Session, vm: str) -> None:
    domain = _present(session, vm)
    if STATES.get(domain.state()[0]) == "running":
        session.check()
        domain.suspend()
    if STATES.get(domain.state()[0]) != "paused":
        raise Transient("hypervisor_error", f"{domain.name()} on host {session.host} goes on")


def _resume(session: Session, vm: str) -> None:
    _run(session, _present(session, vm))


def _present(session: Session, vm: str) -> api.Domain:
    """Find a domain that is ours and not off."""
    domain = ours.find(session, vm)
    if domain is not None:
        ours.owner(session, domain)
        if domain.isActive():
            return domain
    raise Refused("invalid_state", f"the VM {vm} on host {session.host} is off by now: start it")


def _power_off(session: Session, vm: str) -> None:
    domain = ours.find(session, vm)
    if domain is not None:
        ours.owner(session, domain)
        session.check()
        faults.unless(_GONE_OR_IDLE, domain.destroy)


def _destroy(session: Session, vm: str) -> None:
    """Take the domain away and look again: a start that was on its way may have come between."""
    for _ in range(_ATTEMPTS):
        domain = ours.find(session, vm)
        if domain is None:
            return
        ours.owner(session, domain)
        session.check()
        faults.unless(_GONE_OR_IDLE, domain.destroy)
        # A transient domain is gone by now; a persistent one is only defined.
        session.check()
        faults.unless(_GONE, partial(domain.undefineFlags, api.UNDEFINE_ALL))
    raise Transient("hypervisor_error", f"domain of VM {vm} on host {session.host} keeps returning")


def _state(session: Session, vm: str) -> str | None:
    domain = ours.find(session, vm)
    if domain is None:
        return None
    found = faults.absent(api.NO_DOMAIN, domain.state)
    return None if found is None else STATES.get(found[0], "running")


def _inventory(session: Session) -> tuple[Found, ...]:
    found = map(_read, session.connection.listAllDomains())
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.vm))


def _find(session: Session, vm: str) -> Found | None:
    domain = ours.find(session, vm)
    return None if domain is None else _read(domain)


def _read(domain: api.Domain) -> Found | None:
    owner = faults.absent(api.NO_DOMAIN, partial(ours.read_owner, domain))
    state = faults.absent(api.NO_DOMAIN, domain.state) if owner is not None else None
    kept = faults.absent(api.NO_DOMAIN, lambda: domain.snapshotListNames(api.OLDEST_FIRST))
    if owner is None or state is None or kept is None:
        return None
    word = STATES.get(state[0], "running")
    reason = REASONS.get(state[1], "unknown") if word == "shutoff" else ""
    return Found(
        vm=domain.UUIDString(), state=word, reason=reason, owner=owner, snapshots=tuple(kept)
    )
