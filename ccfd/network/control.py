"""Decides what the control network is on one switch: docs/adr/0015.

One bridge, `ccf-0`, that all slices with a controller's VM share. Its row says who uses it for
what (`ccf-use-<VNI>-<tunnel address>`, or nothing behind the last dash for the bridge itself): a
use brings its tunnel, and the last one that goes takes the bridge along. Joining and leaving are
one transaction each, so that slices that come and go side by side cannot cut each other off.

The bridge's own link has an address on the host by which the switch reaches the controllers. Only
ovs-vswitchd can set one there: it does for a bridge with a Controller row that has `local_ip`
(ovs-vswitchd.conf.db(5)), whatever that row's target. Nobody needs to dial it: it waits on a
random port of the loopback address.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ccfd.errors import Refused
from ccfd.model import names
from ccfd.model.network import Control, Port, Ports
from ccfd.network.bridges import MAC_TABLE_SIZE, datapath_id, hardware_address
from ccfd.network.changes import (
    CONTROL,
    SLICE,
    USE,
    Change,
    Snapshot,
    Switch,
    guarded,
    insert_bridge,
    mutate,
    mutate_ports,
    update,
    written,
)
from ccfd.network.controllers import OUT_OF_BAND, attach
from ccfd.network.ports import Local, insert_ports, join_ports
from ccfd.network.rows import BridgeRow, ControllerRow, to_uuids

VNI = names.CONTROL_VNI
NAME = names.bridge(VNI)
NOWHERE = "ptcp:0:127.0.0.1"


def join(wanted: Control, switch: Switch, seen: Snapshot) -> Change:
    """Add the uses of *wanted*, and make the bridge what all uses together need.

    Raises `Refused` (`switch_error`) where a bridge of that name is not ours.
    """
    change = Change()
    uses = _keys(wanted)
    own, address = Local(NAME, wanted.mtu or None), _address(wanted.address)
    if seen.bridge is None:
        ports = _ports(uses, switch)
        rows = insert_ports(ports, switch, seen, (own, *ports.ports), change)
        columns = written(_columns(uses, switch, None)) | attach(NAME, address, (), change)
        insert_bridge(NAME, columns, rows, change)
        return change
    check_ours(seen.bridge, wanted.host)
    uses |= _uses(seen.bridge)
    columns = _columns(uses, switch, seen.bridge)
    wrong = {name: value for name, value in columns.items() if getattr(seen.bridge, name) != value}
    wrong |= attach(NAME, address, seen.controllers, change)
    if wrong:
        change.ops.append(update("Bridge", seen.bridge.uuid, wrong))
    ports = _ports(uses, switch)
    join_ports(ports, switch, seen, (own, *ports.ports), change)
    return guarded(seen, change)


def leave(unwanted: Control, switch: Switch, seen: Snapshot) -> Change:
    """Take the uses of *unwanted* away, and what nobody uses any more with them.

    A slice that leaves with all of them takes the ports of its controllers along.
    """
    change = Change()
    bridge = seen.bridge
    if bridge is None or CONTROL not in bridge.external_ids:
        return change
    uses = _uses(bridge)
    left = uses - (_of_slice(unwanted.vni, uses) if unwanted.uses is None else _keys(unwanted))
    if not left:
        change.ops.append(
            mutate("Open_vSwitch", [], ["bridges", "delete", to_uuids([bridge.uuid])])
        )
        return guarded(seen, change)
    if left != uses:
        ids = _columns(left, switch, bridge)["external_ids"]
        change.ops.append(update("Bridge", bridge.uuid, {"external_ids": ids}))
    unused = {port.name for port in _ports(uses, switch).ports}
    unused -= {port.name for port in _ports(left, switch).ports}
    if unwanted.uses is None:
        unused |= _ports_of_slice(unwanted.slice, seen)
    gone = [port.uuid for port in seen.ports if port.name in unused]
    if gone:
        change.ops.append(mutate_ports(bridge, "delete", to_uuids(gone)))
    return guarded(seen, change)


def _ports_of_slice(name: str, seen: Snapshot) -> set[str]:
    return {row.name for row in seen.interfaces if row.external_ids.get(SLICE) == name}


def check_ours(bridge: BridgeRow, host: str) -> None:
    """Raise `Refused` (`switch_error`) unless ccfd made the bridge."""
    if CONTROL not in bridge.external_ids:
        raise Refused(
            "switch_error",
            f"bridge {NAME} on {host} is not made by ccfd, which needs that name for the control"
            " network: remove it",
        )


def is_control(bridge: BridgeRow) -> bool:
    """Tell whether this is the control network's bridge, and ours."""
    return bridge.name == NAME and CONTROL in bridge.external_ids


def uses_of(bridge: BridgeRow) -> dict[tuple[int, str], frozenset[str]]:
    """Return what each slice (VNI and name) uses of a control bridge."""
    found: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for key, name in _uses(bridge):
        vni, peer = _parts(key)
        found[int(vni), name].add(peer)
    return {whose: frozenset(peers) for whose, peers in found.items()}


def address_of(rows: Sequence[ControllerRow]) -> str:
    """Return the address that the bridge's own link has on the host, with its prefix; or empty."""
    if len(rows) != 1 or rows[0].local_ip is None:
        return ""
    return str(ipaddress.IPv4Interface(f"{rows[0].local_ip}/{rows[0].local_netmask or 32}"))


def _keys(control: Control) -> frozenset[tuple[str, str]]:
    return frozenset((f"{USE}-{control.vni}-{peer}", control.slice) for peer in control.uses or ())


def _uses(bridge: BridgeRow) -> frozenset[tuple[str, str]]:
    return frozenset(
        (key, name) for key, name in bridge.external_ids.items() if key.startswith(f"{USE}-")
    )


def _of_slice(vni: int, uses: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(use for use in uses if _parts(use[0])[0] == str(vni))


def _parts(key: str) -> tuple[str, str]:
    vni, _, peer = key.removeprefix(f"{USE}-").partition("-")
    return vni, peer


def _ports(uses: Iterable[tuple[str, str]], switch: Switch) -> Ports:
    peers = sorted({_parts(key)[1] for key, _ in uses} - {""})
    tunnels = (Port(name=names.tunnel(VNI, peer), kind="vxlan", remote_ip=peer) for peer in peers)
    # Of no slice: they are shared.
    return Ports(host=switch.name, slice="", vni=VNI, ports=tuple(tunnels))


def _columns(
    uses: Iterable[tuple[str, str]], switch: Switch, present: BridgeRow | None
) -> dict[str, Any]:
    ids = dict(present.external_ids) if present else {}
    config = dict(present.other_config) if present else {}
    others = {key: text for key, text in ids.items() if not key.startswith(f"{USE}-")}
    return {
        "datapath_type": switch.datapath_type,
        "fail_mode": "standalone",
        "protocols": frozenset(),
        "external_ids": {**others, CONTROL: "yes", **dict(uses)},
        "other_config": {
            **config,
            "datapath-id": datapath_id(VNI, switch.name),
            "hwaddr": hardware_address(VNI, switch.name),
            "mac-table-size": str(MAC_TABLE_SIZE),
        },
    }


def _address(address: str) -> ControllerRow | None:
    if not address:
        return None
    interface = ipaddress.IPv4Interface(address)
    return ControllerRow(
        uuid="",
        target=NOWHERE,
        connection_mode=OUT_OF_BAND,
        local_ip=str(interface.ip),
        local_netmask=str(interface.netmask),
    )
