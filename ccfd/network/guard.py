"""Decides what VMs have on the guard, the bridge of a switch that no tenant controls.

A VM's tap is a port of `ccf-guard`, and a pair of patch ports joins it with its slice's bridge;
flows (`guard_flows`) let nothing pass but what the VM may send: docs/adr/0019. The bridge is shared
by all slices. What one does never waits for another: a transaction names its own ports only, and
waits for no more than that the bridge still stands, that its numbers are still free and, where it
takes the last tap away and the bridge with it, that this still is the last one.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Bridge, Port, Ports
from ccfd.network import samples, shaping
from ccfd.network.changes import (
    GUARD,
    VM,
    Change,
    Snapshot,
    Switch,
    insert_bridge,
    mutate,
    mutate_ports,
    update,
    wait,
    written,
)
from ccfd.network.controllers import OUT_OF_BAND, attach
from ccfd.network.ovsdb import Operation
from ccfd.network.ports import LAST_NUMBER, TAP, Local, Patch, Tap, insert_ports, join_ports
from ccfd.network.rows import BridgeRow, CollectorRow, ControllerRow, QosRow, to_map, to_uuids

PROTOCOLS = frozenset({"OpenFlow13"})
PAIRS = LAST_NUMBER // 2
"""A VM has two numbers that follow each other: an even one for its tap, the next for the patch."""

IS_TAP = ["external_ids", "includes", to_map({GUARD: TAP})]
"""The condition that an Interface row is a VM's tap on the guard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenGuard:
    """The guard: its bridge with those of its ports that are asked for, and numbers of taps.

    All taps' where others were asked for, or a VM has none yet. `rows.bridge` is None where there
    is no guard; `rows.bridge.ports` are not read.
    """

    rows: Snapshot
    taps: Mapping[str, int] = field(default_factory=dict)


def join(wanted: Bridge | Ports, switch: Switch, seen: SeenGuard, *, bare: bool = False) -> Change:
    """Plug the VMs among *wanted* in; with *bare* the bridge is made without any of them.

    Raises `Refused` (`switch_error`) where a name is somebody else's.
    """
    ports = _rows(_vms(wanted), seen)
    change, bridge = Change(), seen.rows.bridge
    if not ports and not (bare and bridge is None):
        return change
    if bridge is None:
        rows = insert_ports(wanted, switch, seen.rows, (Local(names.GUARD), *ports), change)
        columns = written(_columns(switch, None))
        columns |= attach(names.GUARD, _listener(switch), (), change)
        insert_bridge(names.GUARD, columns, rows, change)
        return change
    _check_ours(bridge, wanted.host)
    _check_owners(ports, wanted, seen)
    columns = _columns(switch, bridge)
    wrong = {name: value for name, value in columns.items() if getattr(bridge, name) != value}
    wrong |= attach(names.GUARD, _listener(switch), seen.rows.controllers, change)
    if wrong:
        change.ops.append(update("Bridge", bridge.uuid, wrong))
    join_ports(wanted, switch, seen.rows, ports, change)
    new = [port for port in ports if isinstance(port, Tap) and port.name not in seen.taps]
    if change.ops:
        change.ops[:0] = [_still_there(bridge), *(_unused(port.number) for port in new)]
    return change


def make(wanted: Bridge, switch: Switch, seen: SeenGuard, *, bare: bool = False) -> Change:
    """Have the VMs of *wanted* plugged in, and no others of its slice and host."""
    kept = {row.name for row in _rows(_vms(wanted), seen)}
    leaving = all_of(seen) - kept
    if bare and seen.rows.bridge is None:
        return join(wanted, switch, seen, bare=True)
    if not kept:
        return leave(leaving, seen) if leaving else Change()
    change = join(wanted, switch, seen)
    ids = [port.uuid for port in seen.rows.ports if port.name in leaving]
    if ids and seen.rows.bridge is not None:
        change.ops.append(mutate_ports(seen.rows.bridge, "delete", to_uuids(ids)))
    change.ops += _release(leaving, seen)
    return change


def leave(leaving: Collection[str], seen: SeenGuard) -> Change:
    """Take the ports called *leaving* away, and the bridge with the last tap."""
    change, bridge = Change(_release(leaving, seen)), seen.rows.bridge
    if bridge is None or GUARD not in bridge.external_ids:
        return change
    if not seen.taps.keys() - set(leaving):
        rows = [{"name": name} for name in sorted(seen.taps)]
        change.ops += [
            wait("Interface", [IS_TAP], ["name"], rows),
            samples.release_all(bridge),
            mutate("Open_vSwitch", [], ["bridges", "delete", to_uuids([bridge.uuid])]),
        ]
        return change
    ids = [port.uuid for port in seen.rows.ports if port.name in leaving]
    if ids:
        change.ops += [_still_there(bridge), mutate_ports(bridge, "delete", to_uuids(ids))]
    return change


def all_of(seen: SeenGuard) -> frozenset[str]:
    """Name the ports that were seen, also those of which only what was tagged for them is left."""
    tagged = {row.external_ids.get(shaping.PORT, "") for row in _tagged(seen)}
    return frozenset({row.name for row in seen.rows.interfaces} | tagged)


def vms_of(seen: SeenGuard) -> frozenset[str]:
    """Return the VMs whose taps were seen."""
    ids = [row.external_ids for row in seen.rows.interfaces]
    return frozenset(one[VM] for one in ids if VM in one)


def _tagged(seen: SeenGuard) -> tuple[QosRow | CollectorRow, ...]:
    return (*seen.rows.qos, *seen.rows.collectors)


def _release(leaving: Collection[str], seen: SeenGuard) -> list[Operation]:
    limits, told = seen.rows.qos, seen.rows.collectors
    return [*shaping.release(leaving, limits), *samples.release(leaving, told)]


def _vms(wanted: Bridge | Ports) -> list[Port]:
    return [port for port in wanted.ports if port.vm is not None]


def _rows(ports: list[Port], seen: SeenGuard) -> tuple[Tap | Patch, ...]:
    taken = set(seen.taps.values())
    rows: list[Tap | Patch] = []
    for port in ports:
        assert port.vm is not None
        number = seen.taps.get(port.name) or _free(port.vm, taken)
        taken.add(number)
        rows += [
            Tap(
                name=port.name,
                vm=port.vm,
                mac=port.mac,
                ip=port.ip,
                number=number,
                bandwidth=port.bandwidth,
                export=port.export,
            ),
            Patch(name=names.guard_patch(port.vm), peer=names.patch(port.vm), number=patch(number)),
        ]
    return tuple(rows)


def patch(tap: int) -> int:
    """Return the number of the patch that belongs to the tap with the number *tap*."""
    return tap + 1


def _free(vm: str, taken: Collection[int]) -> int:
    """Choose a tap's number: one that others, who choose at the same time, hardly choose."""
    first = int.from_bytes(hashlib.sha256(vm.encode()).digest()[:4])
    for step in range(PAIRS):
        number = 2 * (1 + (first + step) % PAIRS)
        if number not in taken:
            return number
    raise Refused("switch_error", f"the guard has {PAIRS} VMs: no more fit")


def _still_there(bridge: BridgeRow) -> dict[str, Any]:
    where = [["_uuid", "==", ["uuid", bridge.uuid]]]
    return wait("Bridge", where, ["name"], [{"name": bridge.name}])


def _unused(number: int) -> dict[str, Any]:
    return wait("Interface", [IS_TAP, ["ofport_request", "==", number]], ["name"], [])


def _check_ours(bridge: BridgeRow, host: str) -> None:
    if GUARD not in bridge.external_ids:
        raise Refused(
            "switch_error",
            f"bridge {names.GUARD} on {host} is not made by ccfd, which needs that name for the"
            " bridge of its VMs: remove it",
        )


def _check_owners(ports: Iterable[Tap | Patch], wanted: Bridge | Ports, seen: SeenGuard) -> None:
    whose = {row.name: row.external_ids.get(VM) for row in seen.rows.interfaces}
    taken = [p.name for p in ports if isinstance(p, Tap) and whose.get(p.name, p.vm) != p.vm]
    if taken:
        raise Refused(
            "switch_error",
            f"the names {', '.join(taken)} are in use on {wanted.host} by other VMs: delete those",
        )


def _columns(switch: Switch, present: BridgeRow | None) -> dict[str, Any]:
    return {
        "datapath_type": switch.datapath_type,
        # It forwards nothing by itself: what no flow lets pass is dropped.
        "fail_mode": "secure",
        "protocols": PROTOCOLS,
        "external_ids": {**(present.external_ids if present else {}), GUARD: "yes"},
        "other_config": {
            **(present.other_config if present else {}),
            "disable-in-band": "true",
        },
    }


def _listener(switch: Switch) -> ControllerRow | None:
    """Return the row that has a remote switch listen for us."""
    if not switch.listener:
        return None
    return ControllerRow(uuid="", target=switch.listener, connection_mode=OUT_OF_BAND)
