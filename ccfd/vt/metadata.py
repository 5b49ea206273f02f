"""How a domain tells whose it is.

An element of our own in the domain's `<metadata>`
(https://libvirt.org/formatdomain.html#general-metadata): enough to tell an orphan from a VM of
the database, and to rebuild the database's row from the host.
"""

import dataclasses
import hashlib
import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from ccfd.model.vm import Machine
from ccfd.vt import markup

URI = "urn:ccfd:domain:1"

ET.register_namespace("ccfd", URI)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a domain is; `digest` is that of the `Machine` it was made from, `about` its text."""

    slice: str
    name: str
    kind: str
    mac: str
    digest: str
    about: str = ""


def digest(machine: Machine) -> str:
    """Return the SHA-256 of what *machine* says, the same for the life of the VM.

    It is taken of the values and not of the XML, so that a newer ccfd, which may write other
    XML for the same machine, does not take running VMs for different ones. Fields at their
    default are left out: a field that is added later changes no digest. The host is left out:
    it is where the domain is, not what it is; so is what is only told about it.
    """
    values = {
        field.name: getattr(machine, field.name)
        for field in dataclasses.fields(machine)
        if field.name not in ("host", "about") and getattr(machine, field.name) != field.default
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def element(machine: Machine) -> ET.Element:
    """Make the element for *machine*."""
    made = ET.Element(
        f"{{{URI}}}vm",
        {
            "slice": machine.slice,
            "name": machine.name,
            "kind": machine.kind,
            "mac": machine.mac,
            "digest": digest(machine),
        },
    )
    made.text = machine.about or None
    return made


def read(text: str) -> Owner | None:
    """Read the element as libvirt gives it back; None if it is not one of ours."""
    found = markup.parse(text)
    # virDomainGetMetadata drops the namespace's prefix from the element that it returns.
    if found.tag not in {"vm", f"{{{URI}}}vm"}:
        return None
    return Owner(
        slice=found.get("slice", ""),
        name=found.get("name", ""),
        kind=found.get("kind", ""),
        mac=found.get("mac", ""),
        digest=found.get("digest", ""),
        about=(found.text or "").strip(),
    )
