"""Decides what the ports of a switch's bridge need.

Ports that are Linux links ("system") need care with the userspace datapath, measured with Open
vSwitch 3.1: a row may stand before its link, the switch takes the link up when it appears; but
when the link is deleted and made again, the switch keeps listening to the dead one, though its row
looks well. Deleting and inserting the row in one transaction changes nothing (rows are matched by
name), whereas another `ofport_request` makes it open the link again. So the row remembers the link
that the switch opened (`ccf-ifindex`); when that is not the link of today, the port is *parked* on
another number and, in the next transaction, brought back to its own.
"""

from dataclasses import dataclass
from typing import Any

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Bridge, Export, Port, Ports
from ccfd.network import samples, shaping
from ccfd.network.changes import (
    BANDWIDTH,
    GUARD,
    HOST,
    IFINDEX,
    IP,
    SAMPLING,
    SLICE,
    VM,
    VNI,
    Change,
    Snapshot,
    Switch,
    insert,
    mutate_ports,
    reference,
    update,
    written,
)
from ccfd.network.rows import InterfaceRow, PortRow

PARKED = 0x8000
"""The bit that tells a parked port's number; OpenFlow 1.0 numbers end at 0xfeff."""
LAST_NUMBER = 0x7EFF

TAP = "tap"
"""What taps are tagged with, by the key `GUARD`."""
IFACE_ID = "iface-id"
MAC = "attached-mac"


@dataclass(frozen=True, slots=True)
class Local:
    """The bridge's own port, which Open vSwitch wants each bridge to have; `mtu` in bytes."""

    name: str
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A VM's tap, on the guard, which knows it by `number`.

    `ip` is None where it may have any, `bandwidth` (Mbit/s each way) where there is no limit,
    `export` where nobody is told what it sends.
    """

    name: str
    vm: str
    mac: str | None
    ip: str | None
    number: int
    bandwidth: int | None = None
    export: Export | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One end of the pair that joins a VM's tap with its slice's bridge; `peer` is the other.

    That on the guard has a `number` of its own.
    """

    name: str
    peer: str
    number: int | None = None


Row = Port | Local | Tap | Patch


def ports_of(host: str, switch: Switch, seen: Snapshot) -> list[PortRow]:
    """List the ports that are *host*'s to remove: all but those of the switch's other sharers."""
    interfaces = {row.uuid: row for row in seen.interfaces}
    others = switch.sharers - {host}
    return [
        port
        for port in seen.ports
        if not any(
            interfaces[uuid].external_ids.get(HOST) in others
            for uuid in port.interfaces
            if uuid in interfaces
        )
    ]


def join_ports(
    wanted: Bridge | Ports,
    switch: Switch,
    seen: Snapshot,
    ports: tuple[Row, ...],
    change: Change,
) -> None:
    """Insert those of *ports* that are missing on the bridge, correct those that differ."""
    assert seen.bridge is not None
    interfaces = {row.name: row for row in seen.interfaces}
    present = {row.name: row for row in seen.ports}
    missing = tuple(
        port for port in ports if port.name not in interfaces or port.name not in present
    )
    for port in ports:
        if port not in missing:
            _correct_port(wanted, switch, seen, port, interfaces[port.name], change=change)
            wrong = _watch(wanted, port, present[port.name], seen, change)
            if wrong:
                change.ops.append(update("Port", present[port.name].uuid, wrong))
    if missing:
        added = insert_ports(wanted, switch, seen, missing, change)
        change.ops.append(mutate_ports(seen.bridge, "insert", ["set", added]))


def insert_ports(
    wanted: Bridge | Ports,
    switch: Switch,
    seen: Snapshot,
    ports: tuple[Row, ...],
    change: Change,
) -> list[list[str]]:
    """Insert rows for *ports*; return how they are referred to.

    Raises `Refused` (`switch_error`) where a name is in use.
    """
    taken = sorted(port.name for port in ports if port.name in seen.taken)
    if taken:
        raise Refused(
            "switch_error",
            f"the names {', '.join(taken)} are in use on {wanted.host} outside of bridge "
            f"{names.bridge(wanted.vni)}: remove those ports",
        )
    numbers = _Numbers(seen)
    references = []
    for port in ports:
        columns = written(_interface_columns(wanted, switch, port, None))
        if not isinstance(port, Local):
            columns["ofport_request"] = numbers.of(port)
        if columns["type"] == "system":
            change.opened.add(port.name)
        outer = {"name": port.name, "interfaces": reference("Interface", port.name)}
        outer |= _watch(wanted, port, None, seen, change)
        change.ops += [
            insert("Interface", port.name, {"name": port.name, **columns}),
            insert("Port", port.name, outer),
        ]
        references.append(reference("Port", port.name))
    return references


def _watch(
    wanted: Bridge | Ports, port: Row, present: PortRow | None, seen: Snapshot, change: Change
) -> dict[str, Any]:
    """Have what keeps a VM to its bandwidth, and tells of it; return what its Port row must be."""
    if not isinstance(port, Tap):
        return {}
    tags = shaping.tags(port.name, port.vm, wanted.slice, wanted.vni, wanted.host)
    samples.tell(port.export, tags, port.number, seen, change)
    return shaping.shape(tags, port.bandwidth, present, seen.qos, change)


class _Numbers:
    """Gives port numbers that are free on a bridge, lowest first."""

    def __init__(self, seen: Snapshot) -> None:
        self._used = {
            number & ~PARKED
            for row in seen.interfaces
            for number in (row.ofport_request, row.ofport)
            if number is not None and number > 0
        } | seen.numbers

    def of(self, port: Port | Tap | Patch) -> int:
        """Return the number that the port has of its own, or the next one."""
        own = None if isinstance(port, Port) else port.number
        return self.next() if own is None else own

    def next(self) -> int:
        number = next((n for n in range(1, LAST_NUMBER + 1) if n not in self._used), None)
        if number is None:
            raise Refused("switch_error", f"the bridge has {LAST_NUMBER} ports: no more fit")
        self._used.add(number)
        return number


def _interface_columns(
    wanted: Bridge | Ports, switch: Switch, port: Row, present: InterfaceRow | None
) -> dict[str, Any]:
    if isinstance(port, Local):
        return {"type": "internal"} | ({} if port.mtu is None else {"mtu_request": port.mtu})
    ids = dict(present.external_ids) if present else {}
    for key in (GUARD, VM, IP, BANDWIDTH, SAMPLING, IFACE_ID, MAC):
        ids.pop(key, None)
    ids |= {HOST: wanted.host} | ({SLICE: wanted.slice} if wanted.slice else {})
    if isinstance(port, Tap) or (isinstance(port, Patch) and port.number is not None):
        ids[VNI] = str(wanted.vni)
    if isinstance(port, Patch):
        return {"type": "patch", "options": {"peer": port.peer}, "external_ids": ids}
    if isinstance(port, Tap):
        ids |= {GUARD: TAP, VM: port.vm, IFACE_ID: port.vm}
        ids |= {} if port.mac is None else {MAC: port.mac}
        ids |= {} if port.ip is None else {IP: port.ip}
        ids |= {} if port.bandwidth is None else {BANDWIDTH: str(port.bandwidth)}
        ids |= {} if port.export is None else {SAMPLING: str(port.export.sampling)}
        return {"type": "system", "options": {}, "external_ids": ids}
    options: dict[str, str] = {}
    if port.kind == "vxlan":
        if port.remote_ip is None:
            raise Refused("switch_error", f"tunnel port {port.name} has no remote address")
        options = {
            "remote_ip": port.remote_ip,
            "local_ip": switch.tunnel_ip,
            "key": str(wanted.vni),
        }
    return {"type": port.kind, "options": options, "external_ids": ids}


def _correct_port(
    wanted: Bridge | Ports,
    switch: Switch,
    seen: Snapshot,
    port: Row,
    present: InterfaceRow,
    *,
    change: Change,
) -> None:
    columns = _interface_columns(wanted, switch, port, present)
    if not isinstance(port, Local):
        number = _own_number(port, present, seen)
        if columns["type"] == "system":
            columns["external_ids"], reopen = _follow_link(
                columns["external_ids"], present, fresh=port.name in seen.fresh
            )
            if reopen:
                number |= PARKED
            if number != present.ofport_request:
                change.opened.add(port.name)
        columns["ofport_request"] = number
    wrong = {name: value for name, value in columns.items() if getattr(present, name) != value}
    if wrong:
        change.ops.append(update("Interface", present.uuid, wrong))


def _own_number(port: Port | Tap | Patch, present: InterfaceRow, seen: Snapshot) -> int:
    if not isinstance(port, Port) and port.number is not None:
        return port.number
    if present.ofport_request is not None:
        return present.ofport_request & ~PARKED
    if present.ofport is not None and 0 < present.ofport <= LAST_NUMBER:
        return present.ofport
    return _Numbers(seen).next()


def is_tap(row: InterfaceRow) -> bool:
    """Tell whether a port of the guard is a VM's own, and no patch."""
    return row.external_ids.get(GUARD) == TAP


def is_unsettled(row: InterfaceRow) -> bool:
    """Tell whether a port's link must be looked at again: it has one to note, or is parked.

    As a rule a new port is a tap's, which waits for its link, and that is all.
    """
    parked = row.ofport_request is not None and row.ofport_request & PARKED != 0
    return parked or (row.ofport is not None and row.ofport > 0)


def _follow_link(
    ids: dict[str, str], present: InterfaceRow, *, fresh: bool
) -> tuple[dict[str, str], bool]:
    """Note which link the switch has open; tell whether it must open it again."""
    if present.ofport is None or present.ofport < 1:  # it waits for the link
        return {key: text for key, text in ids.items() if key != IFINDEX}, False
    if not present.ifindex:  # the link is gone, or was opened just now
        return {key: text for key, text in ids.items() if key != IFINDEX}, not fresh
    now = str(present.ifindex)
    return {**ids, IFINDEX: now}, not fresh and ids.get(IFINDEX) != now
