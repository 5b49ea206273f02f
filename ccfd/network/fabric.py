"""Makes a slice's bridges and ports on the hosts' switches, and removes them."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import Bridge, BridgeChange, Control, Port, Ports
from ccfd.network import bridges, control, external
from ccfd.network.changes import Change, Snapshot, Switch, with_fresh
from ccfd.network.ovsdb import OperationError, Ovsdb
from ccfd.network.snapshot import (
    Inventory,
    read_bridge,
    read_down,
    read_inventory,
    read_ports,
    read_tagged,
)
from ccfd.settings import Settings

log = structlog.get_logger(__name__)

ATTEMPTS = 8
"""Rounds of looking and changing: two for a port that is opened again, the rest for races."""

CARRIES_WITHIN = 3.0
"""Seconds within which a switch has taken up the link of a VM that was started, and told so."""

RESTART = 0.1
"""Seconds in which no ovs-vswitchd is killed, started again, and has applied a change."""


class Fabric:
    """The switches of all hosts and of the network node (`names.NODE`).

    Every effect may be repeated and converges: "already there" means there and equal. They raise
    `Refused` (`host_not_found`; `switch_error` where somebody else's thing is in the way or the
    switch cannot do it) and `Transient` (`host_unreachable`, `switch_error`).
    """

    def __init__(self, settings: Settings, *, timeout: float = 10) -> None:
        node = settings.network_node
        places = [
            (names.NODE, node.ovsdb, node.datapath_type, node.tunnel_ip),
            *((h.name, h.ovsdb, h.datapath_type, h.tunnel_ip) for h in settings.host),
        ]
        self._databases: dict[str, Ovsdb] = {}
        self._switches: dict[str, tuple[Ovsdb, Switch]] = {}
        self._sharing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        for name, address, datapath_type, tunnel_ip in places:
            if address not in self._databases:
                self._databases[address] = Ovsdb(address, settings.tls, timeout=timeout)
            sharers = [other for other, elsewhere, _, _ in places if elsewhere == address]
            self._switches[name] = (
                self._databases[address],
                Switch(
                    name=sharers[0],
                    datapath_type=datapath_type,
                    tunnel_ip=tunnel_ip,
                    sharers=frozenset(sharers),
                ),
            )

    async def make(self, bridge: Bridge) -> None:
        """Make the slice's bridge carry exactly its ports (and its own local one)."""
        db, switch = self._switch(bridge.host)
        seen = await self._converge(
            db,
            bridge,
            [port.name for port in bridge.ports],
            lambda seen: bridges.make(bridge, switch, seen),
        )
        _check_tunnels(bridge.host, _tunnels(bridge.ports), seen)

    async def change(self, change: BridgeChange) -> None:
        """Make a bridge what it shall become."""
        await self.make(change.after)

    async def change_back(self, change: BridgeChange) -> None:
        """Make it what it was."""
        await self.make(change.before)

    async def remove(self, bridge: Bridge) -> None:
        """Remove the slice's bridge with all its ports; another slice's bridge is left alone."""
        db, switch = self._switch(bridge.host)
        bare = replace(bridge, ports=(), controller=None)
        await self._take_away(
            (db, switch),
            bridge,
            lambda seen: bridges.remove(bridge, switch, seen),
            partial(self.make, bare),
        )

    async def _take_away(
        self,
        place: tuple[Ovsdb, Switch],
        target: Bridge | Ports,
        decide: Callable[[Snapshot], Change],
        make: Callable[[], Awaitable[None]],
    ) -> None:
        """Have a bridge gone with its link; *make* gives it once more where that may be left."""
        db, switch = place
        stood, seconds = await self._take_away_once(place, target, decide)
        if switch.datapath_type != "netdev":
            return
        # A userspace bridge's own link outlives an ovs-vswitchd that is killed before it has
        # destroyed it, and the next one knows of it only by the bridge's row. (The kernel's
        # datapath tells it by itself.) So whoever was slow, and may have been another one, is
        # given that row once more; who is slow without having been killed would be slow to come
        # back as well.
        restart = RESTART
        while not stood or seconds >= restart:
            # It may stand, for those who share it, or be somebody else's.
            if (await read_bridge(db, names.bridge(target.vni), [])).bridge is not None:
                return
            await make()
            restart *= 2
            stood, seconds = await self._take_away_once(place, target, decide)

    async def _take_away_once(
        self,
        place: tuple[Ovsdb, Switch],
        target: Bridge | Ports,
        decide: Callable[[Snapshot], Change],
    ) -> tuple[bool, float]:
        """Tell whether there was a bridge, and the most seconds that the switch kept us waiting."""
        db, switch = place
        seen = []

        def look(snapshot: Snapshot) -> Change:
            seen.append(snapshot.bridge is not None)
            return decide(snapshot)

        seconds = await _timed(self._converge(db, target, [], look))
        if switch.datapath_type == "netdev":
            # It may destroy the link somewhat after it has told of the removal.
            await asyncio.sleep(RESTART / 2)
            seconds = max(seconds, await _timed(db.transact_applied([])))
        return seen[0], seconds

    async def plug(self, ports: Ports) -> None:
        """Add ports to the slice's bridge, which must stand.

        Wanted again after a port's link was made anew (a VM was started): see `bridges`.
        """
        db, switch = self._switch(ports.host)
        seen = await self._converge(
            db,
            ports,
            [port.name for port in ports.ports],
            lambda seen: bridges.plug(ports, switch, seen),
        )
        _check_tunnels(ports.host, _tunnels(ports.ports), seen)

    async def unplug(self, ports: Ports) -> None:
        """Remove ports from the slice's bridge."""
        db, _ = self._switch(ports.host)
        await self._converge(db, ports, [], lambda seen: bridges.unplug(ports, seen))

    async def carries(self, ports: Ports) -> bool:
        """Tell whether the links of *ports* are up, now that the VM that has them was started.

        False: the switch, opening a new link, has taken it down for good (docs/adr/0006), and
        only another start of the VM makes another one.
        """
        db, _ = self._switch(ports.host)
        wanted = [port.name for port in ports.ports]
        down: list[str] = wanted
        try:
            async with asyncio.timeout(CARRIES_WITHIN):
                while down:
                    down = await read_down(db, down)
                    await asyncio.sleep(CARRIES_WITHIN / 60 if down else 0)
        except TimeoutError:
            log.warning("links are down after a start", host=ports.host, links=down)
        return not down

    async def join(self, part: Control) -> None:
        """Give a slice its part of the control network on a switch, which it may share."""
        # One after another: here they would only lose races against each other.
        async with self._sharing[part.host]:
            await self._join(part)

    async def leave(self, part: Control) -> None:
        """Take a slice's part of the control network away, and what nobody else needs of it."""
        db, switch = self._switch(part.host)
        # A use that leaving takes away again, not one that it does not know of.
        bare = replace(part, uses=(part.uses or ("",))[:1])
        async with self._sharing[part.host]:
            await self._take_away(
                (db, switch),
                _control_bridge(part),
                lambda seen: control.leave(part, switch, seen),
                partial(self._join, bare),
            )

    async def _join(self, part: Control) -> None:
        db, switch = self._switch(part.host)
        tunnels = [names.tunnel(names.CONTROL_VNI, use) for use in part.uses or () if use]
        seen = await self._converge(
            db, _control_bridge(part), tunnels, lambda seen: control.join(part, switch, seen)
        )
        _check_tunnels(part.host, tunnels, seen)

    async def attach(self, bridge: str, ports: Ports) -> None:
        """Add a slice's ports to a bridge that is the operator's, which must stand."""
        db, switch = self._switch(ports.host)
        await self._converge(
            db,
            ports,
            [port.name for port in ports.ports],
            lambda seen: external.attach(bridge, ports, switch, seen),
            bridge=bridge,
        )

    async def detach(self, ports: Ports) -> None:
        """Take a slice's ports off a bridge that is the operator's, whichever it is."""
        db, _ = self._switch(ports.host)
        found = await read_tagged(db, ports.slice, [port.name for port in ports.ports])
        if found:
            await db.transact_applied(external.detach(found))

    async def attached(self, host: str, bridge: str) -> frozenset[str] | None:
        """Name the ports of a bridge; None where the switch of *host* has no such bridge."""
        db, _ = self._switch(host)
        return await read_ports(db, bridge)

    async def probe(self, host: str) -> None:
        """Raise `Transient` unless the host's database answers and ovs-vswitchd keeps up."""
        db, _ = self._switch(host)
        await db.transact_applied([])

    async def inventory(self, host: str) -> Inventory:
        """Return all that the host's switch holds of ours (shared switch: of all its sharers)."""
        db, _ = self._switch(host)
        return await read_inventory(db)

    async def close(self) -> None:
        """Close the connections to all databases."""
        for db in self._databases.values():
            await db.close()

    def _switch(self, host: str) -> tuple[Ovsdb, Switch]:
        if host not in self._switches:
            raise Refused("host_not_found", f"host {host} is not in the settings")
        return self._switches[host]

    async def _converge(
        self,
        db: Ovsdb,
        target: Bridge | Ports,
        wanted: list[str],
        decide: Callable[[Snapshot], Change],
        *,
        bridge: str = "",
    ) -> Snapshot:
        """Look, change, look again, until there is nothing to change and all is applied.

        It is about the bridge of the target's slice, unless *bridge* names another one.
        """
        name = bridge or names.bridge(target.vni)
        opened: set[str] = set()
        for _ in range(ATTEMPTS):
            seen = await read_bridge(db, name, wanted)
            change = decide(with_fresh(seen, opened))
            if not change.ops:
                await db.applied(seen.next_cfg)
                return seen
            try:
                await db.transact_applied(change.ops)
            except OperationError as exc:
                if exc.error not in ("timed out", "constraint violation"):
                    raise exc.translate(target.host) from exc
                reason = str(exc)  # somebody else was faster: look again
                continue
            reason = "it never stays as it was left"
            opened |= change.opened
            log.debug("switch changed", host=target.host, slice=target.slice, ops=len(change.ops))
        raise Transient(
            "switch_error",
            f"bridge {name} on {target.host} does not settle: {reason}; "
            "see whether something else changes it",
        )


def _control_bridge(part: Control) -> Ports:
    """Name the bridge of the control network on the switch of *part*."""
    return Ports(host=part.host, slice=part.slice, vni=names.CONTROL_VNI, ports=())


def _tunnels(ports: tuple[Port, ...]) -> list[str]:
    return [port.name for port in ports if port.kind == "vxlan"]


def _check_tunnels(host: str, tunnels: Collection[str], seen: Snapshot) -> None:
    """Refuse if the switch could not make one of the tunnel ports."""
    wrong = [
        f"{row.name}: {row.error}" for row in seen.interfaces if row.name in tunnels and row.error
    ]
    if wrong:
        raise Refused("switch_error", f"the switch of {host} cannot make {'; '.join(wrong)}")


async def _timed(work: Awaitable[Any]) -> float:
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began
