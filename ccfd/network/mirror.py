"""A small copy of what is ours in a switch's database, kept true by what its server tells.

Pure: what is told goes in (RFC 7047, 4.1.5 and 4.1.6), which bridges it changed comes out. Of
bridges and ports that are not ours only their names are kept, of their interfaces nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ccfd.network import counters
from ccfd.network.changes import HOST, SLICE, VM, VNI
from ccfd.network.counters import Counters, Rates, Trend
from ccfd.network.ovsdb import DATABASE
from ccfd.network.rows import as_map, as_optional, as_uuids

COLUMNS: dict[str, list[str]] = {
    DATABASE: ["other_config"],
    "Bridge": [
        "name",
        "external_ids",
        "ports",
        "controller",
        "fail_mode",
        "datapath_id",
        "datapath_type",
    ],
    "Port": ["name", "interfaces"],
    "Interface": [
        "name",
        "type",
        "external_ids",
        "options",
        "ofport",
        "error",
        "admin_state",
        "link_state",
        "status",
        "bfd_status",
        "mac_in_use",
        "statistics",
    ],
    "Controller": ["target", "is_connected", "status"],
}

_OURS = "ccf-"
# Ports of these kinds get an address of their own by chance, each time ovs-vswitchd starts.
_BORN_WITH_THE_SWITCH = frozenset({"vxlan", "patch"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedController:
    """A controller that a bridge dials; `state` is Open vSwitch's word (`ACTIVE`, `BACKOFF`, …)."""

    target: str
    connected: bool
    state: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedBridge:
    """A bridge that carries a tag of ours."""

    name: str
    slice: str | None
    vni: int | None
    datapath_id: str
    datapath_type: str
    fail_mode: str | None
    controllers: tuple[WatchedController, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPort:
    """A port that carries a tag of ours; `bridge` is the name of the one that it is on.

    `host` is whose it is where several share the switch. `ofport` is -1 while the switch cannot
    open the link, and `link` is `up`, `down`, or None where it does not know. `carrier` and `bfd`
    tell of the path of a tunnel: the link that it leaves by, and the session where there is one.
    """

    name: str
    bridge: str | None
    slice: str | None
    vm: str | None
    host: str | None
    kind: str
    ofport: int | None
    error: str | None
    admin: str | None
    link: str | None
    remote_ip: str | None
    carrier: str | None
    bfd: str | None
    counters: Counters | None
    rates: Rates | None

    @property
    def up(self) -> bool | None:
        """Tell whether it passes packets on, as far as its switch knows."""
        if self.error or (self.ofport is not None and self.ofport < 1):
            return False
        if "down" in (self.admin, self.link, self.carrier, self.bfd):
            return False
        return None if self.ofport is None else True


@dataclass(frozen=True, slots=True)
class Changed:
    """What an update changed, counters left out.

    `restarted`: ovs-vswitchd has been started anew; its flows are gone.
    """

    bridges: frozenset[str] = frozenset()
    restarted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bridge:
    name: str
    ids: Mapping[str, str]
    ports: frozenset[str]
    controllers: frozenset[str]
    datapath_id: str
    datapath_type: str
    fail_mode: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interface:
    """All but its counters; `mac` is remembered of those that tell by it of a restart."""

    name: str
    kind: str
    ids: Mapping[str, str]
    ofport: int | None
    error: str | None
    admin: str | None
    link: str | None
    remote_ip: str | None
    carrier: str | None
    bfd: str | None
    mac: str | None


@dataclass(slots=True)
class Mirror:
    """Our rows of one switch's database, by their ids; `period` is that of its statistics."""

    period: float = counters.PERIOD
    _bridges: dict[str, _Bridge] = field(default_factory=dict)
    _by_name: dict[str, _Bridge] = field(default_factory=dict)
    _controllers: dict[str, WatchedController] = field(default_factory=dict)
    _interfaces: dict[str, _Interface] = field(default_factory=dict)
    _trends: dict[str, Trend] = field(default_factory=dict)
    # What hangs where: a port or controller on its bridge, an interface on its port.
    _bridge_of: dict[str, str] = field(default_factory=dict)
    _port_of: dict[str, str] = field(default_factory=dict)
    _interfaces_of: dict[str, frozenset[str]] = field(default_factory=dict)

    def apply(self, tables: Mapping[str, Any], at: float | None) -> Changed:
        """Take what the server told at *at* (None: all that was there when we came).

        Raises `LookupError`, `TypeError` or `ValueError` where that is no update of COLUMNS.
        """
        for row in tables.get(DATABASE, {}).values():
            if "new" in row:
                self._take_settings(row["new"])
        changed = set()
        for uuid, row in tables.get("Bridge", {}).items():
            changed |= self._take_bridge(uuid, row)
        # What comes to a bridge or leaves it changes the bridge's own row: the rest is to be
        # looked for where it hangs now.
        for uuid, row in tables.get("Port", {}).items():
            self._take_port(uuid, row)
        restarted = False
        for uuid, row in tables.get("Interface", {}).items():
            before, after = self._interfaces.get(uuid), self._take_interface(uuid, row, at)
            if before and after and before.mac and after.mac and before.mac != after.mac:
                restarted = True
            if before != after:
                changed |= self._names_of(self._port_of.get(uuid))
        for uuid, row in tables.get("Controller", {}).items():
            if self._take_controller(uuid, row):
                changed |= self._names_of(uuid)
        return Changed(frozenset(changed), restarted)

    def bridge(self, name: str) -> WatchedBridge | None:
        """Return our bridge called *name*."""
        found = self._by_name.get(name)
        return self._shown(found) if found is not None and _is_ours(found.ids) else None

    def ports(self, at: float) -> Iterator[WatchedPort]:
        """Yield our ports, with their rates at *at*."""
        for uuid, row in self._interfaces.items():
            bridge = self._bridge_at(self._port_of.get(uuid))
            trend = self._trends.get(uuid)
            yield WatchedPort(
                name=row.name,
                bridge=bridge.name if bridge else None,
                slice=row.ids.get(SLICE),
                vm=row.ids.get(VM),
                host=row.ids.get(HOST),
                kind=row.kind,
                ofport=row.ofport,
                error=row.error,
                admin=row.admin,
                link=row.link,
                remote_ip=row.remote_ip,
                carrier=row.carrier,
                bfd=row.bfd,
                counters=trend.now if trend else None,
                rates=trend.rates(at, self.period) if trend else None,
            )

    def _shown(self, bridge: _Bridge) -> WatchedBridge:
        vni = bridge.ids.get(VNI, "")
        dialled = [
            self._controllers[uuid] for uuid in bridge.controllers & self._controllers.keys()
        ]
        return WatchedBridge(
            name=bridge.name,
            slice=bridge.ids.get(SLICE),
            vni=int(vni) if vni.isdecimal() else None,
            datapath_id=bridge.datapath_id,
            datapath_type=bridge.datapath_type,
            fail_mode=bridge.fail_mode,
            controllers=tuple(sorted(dialled, key=lambda one: one.target)),
        )

    def _bridge_at(self, member: str | None) -> _Bridge | None:
        """Return the bridge on which a port or controller hangs."""
        return self._bridges.get(self._bridge_of.get(member or "", ""))

    def _names_of(self, member: str | None) -> set[str]:
        """Return the name of the bridge on which a port or controller hangs, if it is ours."""
        bridge = self._bridge_at(member)
        return {bridge.name} if bridge and _is_ours(bridge.ids) else set()

    def _take_settings(self, new: Mapping[str, Any]) -> None:
        told = as_map(new["other_config"]).get("stats-update-interval", "")
        # Open vSwitch looks no more often than that, whatever is asked for.
        self.period = max(counters.PERIOD, int(told) / 1000 if told.isdecimal() else 0.0)

    def _take_bridge(self, uuid: str, row: Mapping[str, Any]) -> set[str]:
        """Take a row; name those of our bridges that are different now."""
        before, after = self._bridges.pop(uuid, None), None
        if before is not None:
            self._by_name.pop(before.name, None)
            for member in before.ports | before.controllers:
                if self._bridge_of.get(member) == uuid:
                    del self._bridge_of[member]
        if "new" in row:
            after = _bridge(row["new"])
            self._bridges[uuid] = self._by_name[after.name] = after
            self._bridge_of |= dict.fromkeys(after.ports | after.controllers, uuid)
        if before == after:
            return set()
        return {one.name for one in (before, after) if one is not None and _is_ours(one.ids)}

    def _take_port(self, uuid: str, row: Mapping[str, Any]) -> None:
        for interface in self._interfaces_of.pop(uuid, ()):
            if self._port_of.get(interface) == uuid:
                del self._port_of[interface]
        if "new" in row:
            self._interfaces_of[uuid] = as_uuids(row["new"]["interfaces"])
            self._port_of |= dict.fromkeys(self._interfaces_of[uuid], uuid)

    def _take_interface(
        self, uuid: str, row: Mapping[str, Any], at: float | None
    ) -> _Interface | None:
        known = self._interfaces.get(uuid)
        if known is not None and row.get("old", {}).keys() == {"statistics"}:  # every few seconds
            self._take_statistics(uuid, row["new"], at)
            return known
        if "new" not in row or not _is_ours(as_map(row["new"]["external_ids"])):
            self._interfaces.pop(uuid, None)
            self._trends.pop(uuid, None)
            return None
        self._interfaces[uuid] = _interface(row["new"])
        if at is None or "statistics" in row.get("old", {"statistics"}):
            self._take_statistics(uuid, row["new"], at)
        return self._interfaces[uuid]

    def _take_statistics(self, uuid: str, new: Mapping[str, Any], at: float | None) -> None:
        told = counters.read({str(name): int(number) for name, number in new["statistics"][1]})
        if told is None:
            self._trends.pop(uuid, None)
        elif uuid in self._trends and at is not None:
            self._trends[uuid] = self._trends[uuid].next(told, at)
        else:
            self._trends[uuid] = Trend(now=told, at=at)

    def _take_controller(self, uuid: str, row: Mapping[str, Any]) -> bool:
        """Take a row; tell whether it is different now."""
        before, after = self._controllers.pop(uuid, None), None
        if "new" in row:
            after = self._controllers[uuid] = _controller(row["new"])
        return before != after


def _is_ours(external_ids: Mapping[str, str]) -> bool:
    return any(key.startswith(_OURS) for key in external_ids)


def _bridge(new: Mapping[str, Any]) -> _Bridge:
    return _Bridge(
        name=new["name"],
        ids=as_map(new["external_ids"]),
        ports=as_uuids(new["ports"]),
        controllers=as_uuids(new["controller"]),
        datapath_id=as_optional(new["datapath_id"]) or "",
        datapath_type=new["datapath_type"],
        fail_mode=as_optional(new["fail_mode"]),
    )


def _interface(new: Mapping[str, Any]) -> _Interface:
    kind, status = new["type"], as_map(new["status"])
    return _Interface(
        name=new["name"],
        kind=kind,
        ids=as_map(new["external_ids"]),
        ofport=as_optional(new["ofport"]),
        error=as_optional(new["error"]),
        admin=as_optional(new["admin_state"]),
        link=as_optional(new["link_state"]),
        remote_ip=as_map(new["options"]).get("remote_ip"),
        carrier=status.get("tunnel_egress_iface_carrier"),
        bfd=as_map(new["bfd_status"]).get("state"),
        mac=as_optional(new["mac_in_use"]) if kind in _BORN_WITH_THE_SWITCH else None,
    )


def _controller(new: Mapping[str, Any]) -> WatchedController:
    # "sec_since_connect" and the like are left out: they change without anything having changed.
    status = as_map(new["status"])
    return WatchedController(
        target=new["target"],
        connected=new["is_connected"],
        state=status.get("state", ""),
        error=status.get("last_error", ""),
    )
