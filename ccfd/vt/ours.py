"""Which domain is a VM's, and whether it says that it is ours."""

from ccfd.errors import Refused
from ccfd.vt import api, faults, metadata
from ccfd.vt.session import Session


def find(session: Session, vm: str) -> api.Domain | None:
    """Return the domain with the UUID *vm*, if there is one."""
    return faults.absent(api.NO_DOMAIN, lambda: session.connection.lookupByUUIDString(vm))


def owner(session: Session, domain: api.Domain) -> metadata.Owner:
    """Return whose *domain* is; refuse one that does not say that it is ours."""
    whose = read_owner(domain)
    if whose is None:
        raise Refused(
            "hypervisor_error",
            f"host {session.host} has a domain {domain.name()} with the UUID of a VM but without "
            "ccfd's metadata; it is left alone: remove it if it is not needed",
            details={"host": session.host, "domain": domain.name()},
        )
    return whose


def read_owner(domain: api.Domain) -> metadata.Owner | None:
    """Read whose *domain* is; one that is gone by now is an error, not a stranger."""
    told = faults.absent(
        api.NO_DOMAIN_METADATA, lambda: domain.metadata(api.METADATA_ELEMENT, metadata.URI)
    )
    return None if told is None else metadata.read(told)
