"""How a slice's network hangs together now: its document, beside what its switches tell. Pure.

What the slice has comes from its document, so that a VM whose host is not heard is there all the
same, its link `unknown`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ccfd.model import names
from ccfd.network.counters import Flow, Speed
from ccfd.network.mirror import WatchedBridge, WatchedPort

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A switch that the slice is on. `host` is its name (`names.NODE`), or that of its host.

    `joined` tells that VMs of the slice's own network are there, `problem` why it is not heard;
    `bridge` is None where the slice has none there; `ports` are those with the slice's tag.
    """

    host: str
    tunnel_ip: str
    joined: bool = True
    problem: str | None = None
    bridge: WatchedBridge | None = None
    ports: tuple[WatchedPort, ...] = ()


def topology(slice_: Document, seats: Sequence[Seat], switch_of: dict[str, str]) -> Document:
    """Describe the slice of document *slice_*, on *seats*; *switch_of* names the seat of hosts."""
    vni = slice_["vni"]
    return {
        "slice": slice_["slice"],
        "vni": vni,
        "controller": slice_["controller"],
        "switches": [
            {"host": seat.host, "heard": seat.problem is None, "problem": seat.problem}
            for seat in seats
        ],
        "bridges": [_bridge(seat.host, seat.bridge) for seat in seats if seat.bridge is not None],
        "ports": [
            _port(vni, seat.host, port)
            for seat in seats
            for port in sorted(seat.ports, key=lambda port: port.name)
            if port.kind != "patch"
        ],
        "links": [
            *_tunnels(vni, seats),
            *_legs(vni, seats),
            *(_vm_link(vni, vm, seats, switch_of) for vm in slice_["vms"] if is_there(vm)),
        ],
        "vms": slice_["vms"],
    }


def is_there(vm: Document) -> bool:
    """Tell whether a VM should have a port: one that failed to be made has none."""
    return vm["host"] is not None and vm["state"] != "failed"


def _bridge(host: str, bridge: WatchedBridge) -> Document:
    return {
        "host": host,
        "bridge": bridge.name,
        "datapath_id": bridge.datapath_id,
        "datapath_type": bridge.datapath_type,
        "fail_mode": bridge.fail_mode,
        "controllers": [
            {
                "target": one.target,
                "connected": one.connected,
                "state": one.state or None,
                "error": one.error or None,
            }
            for one in bridge.controllers
        ],
    }


def _port(vni: int, host: str, port: WatchedPort) -> Document:
    counters, rates = port.counters, port.rates
    return {
        "port": port.name,
        "host": host,
        "bridge": port.bridge,
        "kind": _kind(vni, port),
        "vm": port.vm,
        "remote_ip": port.remote_ip,
        "state": _word(port.up),
        "link": port.link,
        "error": port.error,
        "receive": _way(counters.receive, rates.receive if rates else None) if counters else None,
        "transmit": _way(counters.transmit, rates.transmit if rates else None)
        if counters
        else None,
    }


def _kind(vni: int, port: WatchedPort) -> str:
    if port.vm is not None:
        return "vm"
    if port.kind == "vxlan":
        return "tunnel"
    return {names.inside_port(vni): "namespace", names.outside_port(vni): "outside"}.get(
        port.name, "other"
    )


def _way(flow: Flow, speed: Speed | None) -> Document:
    return {
        "bytes": flow.bytes,
        "packets": flow.packets,
        "drops": flow.drops,
        "bytes_per_second": None if speed is None else round(speed.bytes, 1),
        "packets_per_second": None if speed is None else round(speed.packets, 1),
    }


def _word(up: bool | None) -> str:
    return {True: "up", False: "down", None: "unknown"}[up]


def _end(vni: int, host: str, port: str) -> Document:
    return {"host": host, "bridge": names.bridge(vni), "port": port}


def _state(seat: Seat, port: str) -> bool | None:
    """Tell whether a port that there should be is up; None where its switch is not heard."""
    if seat.problem is not None:
        return None
    found = next((one for one in seat.ports if one.name == port), None)
    return found.up if found else False


def _both(states: Iterable[bool | None]) -> bool | None:
    """Tell whether a link is up whose ends are so: one end that is down is enough to know."""
    known = [*states]
    return False if False in known else None if None in known else True


def _tunnels(vni: int, seats: Sequence[Seat]) -> list[Document]:
    """Describe the tunnels between the network node and each other switch."""
    centre, *others = (seat for seat in seats if seat.joined)
    links = []
    for seat in others:
        near, far = names.tunnel(vni, seat.tunnel_ip), names.tunnel(vni, centre.tunnel_ip)
        links.append(
            {
                "kind": "tunnel",
                "from": _end(vni, centre.host, near),
                "to": _end(vni, seat.host, far),
                "state": _word(_both([_state(centre, near), _state(seat, far)])),
            }
        )
    return links


def _legs(vni: int, seats: Sequence[Seat]) -> list[Document]:
    """Describe what joins the slice's namespace: its leg inside, and outside where it has one."""
    centre, inside = seats[0], names.inside_port(vni)
    space = {"host": centre.host, "namespace": names.namespace(vni)}
    return [
        {
            "kind": "namespace",
            "from": _end(vni, centre.host, inside),
            "to": space,
            "state": _word(_state(centre, inside)),
        },
        *(
            {
                "kind": "outside",
                "from": space,
                "to": {"host": centre.host, "bridge": port.bridge, "port": port.name},
                "state": _word(port.up),
            }
            for port in centre.ports
            if port.name == names.outside_port(vni)
        ),
    ]


def _vm_link(vni: int, vm: Document, seats: Sequence[Seat], switch_of: dict[str, str]) -> Document:
    # A controller's VM is on the control network.
    on = names.CONTROL_VNI if vm["kind"] == "controller" else vni
    host = switch_of.get(vm["host"])
    seat = next((one for one in seats if one.host == host), None)
    tap = names.tap(vm["vm"])
    return {
        "kind": "vm",
        "from": _end(on, host or vm["host"], tap),
        "to": {"vm": vm["vm"], "name": vm["name"]},
        "state": _word(_state(seat, tap) if seat else None),
    }
