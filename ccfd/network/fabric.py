"""Makes a slice's bridges and ports on the hosts' switches, and removes them."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import Bridge, BridgeChange, Control, Ports
from ccfd.network import bridges, control, external, guard, openflow, shaping
from ccfd.network.changes import Change, Snapshot, Switch, with_fresh
from ccfd.network.guard import SeenGuard
from ccfd.network.guarding import Guarding
from ccfd.network.inventory import Inventory, read_inventory
from ccfd.network.ovsdb import OperationError, Ovsdb
from ccfd.network.ports import is_unsettled
from ccfd.network.rows import InterfaceRow
from ccfd.network.snapshot import (
    has_bridge,
    read_bridge,
    read_down,
    read_guard,
    read_interfaces,
    read_named,
    read_ports,
    read_qos,
    read_tagged,
)
from ccfd.settings import Host, NetworkNode, Settings

T = TypeVar("T")

log = structlog.get_logger(__name__)

ATTEMPTS = 8
"""Rounds of looking and changing: two for a port that is opened again, the rest for races."""

CARRIES_WITHIN = 3.0
"""Seconds within which a switch has taken up the link of a VM that was started, and told so."""

RESTART = 0.1
"""Seconds in which no ovs-vswitchd is killed, started again, and has applied a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A switch with its database and its guard."""

    db: Ovsdb
    switch: Switch
    guarding: Guarding


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look at a switch has shown: a bridge, and the guard where that was asked for."""

    rows: Snapshot
    guard: SeenGuard = SeenGuard(rows=Snapshot(whole=False))  # noqa: RUF009 - frozen


Looking = Callable[[], Awaitable[Seen]]
Deciding = Callable[[Seen], Change]


class Fabric:
    """The switches of all hosts and of the network node (`names.NODE`).

    Every effect may be repeated and converges: "already there" means there and equal. They raise
    `Refused` (`host_not_found`; `switch_error` where somebody else's thing is in the way or the
    switch cannot do it) and `Transient` (`host_unreachable`, `switch_error`).
    """

    def __init__(self, settings: Settings, *, timeout: float = 10) -> None:
        node = settings.network_node
        places: list[tuple[str, NetworkNode | Host]] = [
            (names.NODE, node),
            *((host.name, host) for host in settings.host),
        ]
        self._places: dict[str, Place] = {}
        self._sharing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        for name, place in places:
            sharers = [other for other, elsewhere in places if elsewhere.ovsdb == place.ovsdb]
            first = self._places.get(sharers[0])
            where = openflow.endpoint(place.openflow, place.ovsdb, place.tunnel_ip)
            db = first.db if first else Ovsdb(place.ovsdb, settings.tls, timeout=timeout)
            self._places[name] = Place(
                db=db,
                switch=Switch(
                    name=sharers[0],
                    datapath_type=place.datapath_type,
                    tunnel_ip=place.tunnel_ip,
                    sharers=frozenset(sharers),
                    listener=openflow.listener(where),
                ),
                guarding=first.guarding if first else Guarding(name, db, where, settings.tls),
            )

    @property
    def guards(self) -> tuple[Guarding, ...]:
        """The guards of all switches, each once."""
        return tuple(
            place.guarding for name, place in self._places.items() if place.switch.name == name
        )

    async def make(self, bridge: Bridge) -> None:
        """Make the slice's bridge carry exactly its ports (and its own local one).

        As a rule it does not stand, so that is what is tried first; where it does, the database
        refuses a transaction that begins with a `wait` for no such bridge.
        """
        await self._make(bridge, guess=partial(_guess_nothing, self._place(bridge.host), bridge))

    async def _make(
        self, bridge: Bridge, *, guess: Looking | None = None, bare: bool = False
    ) -> None:
        place = self._place(bridge.host)

        def decide(seen: Seen) -> Change:
            own = bridges.make(bridge, place.switch, seen.rows)
            return own.and_also(guard.make(bridge, place.switch, seen.guard, bare=bare))

        looks = partial(_look_at_all, place, bridge)
        await self._converge(place, bridge, looks, decide, guess=guess)
        await self._settle(place, bridge)

    async def change(self, change: BridgeChange) -> None:
        """Make a bridge what it shall become."""
        await self._make(change.after)

    async def change_back(self, change: BridgeChange) -> None:
        """Make it what it was."""
        await self._make(change.before)

    async def remove(self, bridge: Bridge) -> None:
        """Remove the slice's bridge with all its ports; another slice's bridge is left alone."""
        place = self._place(bridge.host)
        bare = replace(bridge, ports=(), controller=None)

        def decide(seen: Seen) -> Change:
            own = bridges.remove(bridge, place.switch, seen.rows)
            return own.and_also(guard.leave(guard.all_of(seen.guard), seen.guard))

        async def remove() -> tuple[bool, bool]:
            looks = partial(_look_at_all, place, bridge, others=True)
            first = await self._converge(place, bridge, looks, decide, leaving=True)
            stands = await has_bridge(place.db, names.bridge(bridge.vni))
            return first.rows.bridge is not None, stands

        await self._forget_all(place, bridge)
        await self._take_away(place, remove, partial(self._make, bare, bare=True))

    async def _forget_all(self, place: Place, network: Bridge | Ports) -> None:
        """Remove the flows of all VMs that a network has on a switch."""
        going = guard.vms_of(await read_guard(place.db, network, whole=True))
        await place.guarding.forget(going)

    async def _take_away(
        self,
        place: Place,
        remove: Callable[[], Awaitable[tuple[bool, bool]]],
        make: Callable[[], Awaitable[None]],
    ) -> None:
        """Have bridges gone with their links; *make* gives them once more where that may be left.

        *remove* tells whether they stood, and whether they still do: for those who share them, or
        because they are somebody else's.
        """
        restart = RESTART
        while True:
            (stood, stands), seconds = await _timed(remove())
            if stands or place.switch.datapath_type != "netdev":
                return
            # A userspace bridge's own link outlives an ovs-vswitchd that is killed before it has
            # destroyed it, and the next one knows of it only by the bridge's row. (The kernel's
            # datapath tells it by itself.) So whoever was slow, and may have been another one, is
            # given that row once more; who is slow without having been killed would be slow to
            # come back as well. It may destroy the link somewhat after it has told of the removal.
            await asyncio.sleep(RESTART / 2)
            _, later = await _timed(place.db.transact_applied([]))
            if stood and max(seconds, later) < restart:
                return
            await make()
            restart *= 2

    async def plug(self, ports: Ports) -> None:
        """Add ports to the slice's bridge, which must stand.

        Wanted again after a port's link was made anew (a VM was started): see `bridges`.
        """
        place = self._place(ports.host)

        def decide(seen: Seen) -> Change:
            own = bridges.plug(ports, place.switch, seen.rows)
            return own.and_also(guard.join(ports, place.switch, seen.guard))

        await self._converge(place, ports, partial(_look_at, place, ports), decide)
        await self._settle(place, ports)

    async def unplug(self, ports: Ports) -> None:
        """Remove ports from the slice's bridge."""
        place = self._place(ports.host)
        going = [port.vm for port in ports.ports if port.vm is not None]

        def decide(seen: Seen) -> Change:
            own = bridges.unplug(ports, seen.rows)
            if not going:
                return own
            return own.and_also(guard.leave(guard.all_of(seen.guard), seen.guard))

        async def remove() -> tuple[bool, bool]:
            looks = partial(_look_at, place, ports, others=True)
            first = await self._converge(place, ports, looks, decide, leaving=True)
            stands = not going or await has_bridge(place.db, names.GUARD)
            return first.guard.rows.bridge is not None, stands

        await place.guarding.forget(going)
        await self._take_away(place, remove, partial(self._bare_guard, place, ports))

    async def _bare_guard(self, place: Place, ports: Ports) -> None:
        """Make the guard as it is without any VM."""
        nobody = replace(ports, ports=())
        await self._converge(
            place,
            nobody,
            partial(_look_at, place, nobody),
            lambda seen: guard.join(nobody, place.switch, seen.guard, bare=True),
        )

    async def carries(self, ports: Ports) -> bool:
        """Tell whether the links of *ports* are up, now that the VM that has them was started.

        False: the switch, opening a new link, has taken it down for good (docs/adr/0006), and
        only another start of the VM makes another one.
        """
        db = self._place(ports.host).db
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

    async def shape(self, ports: Ports) -> None:
        """Have the switch limit the links of *ports*, now that the VM that has them was started.

        libvirt gives a tap that it has made a queue of its own, and may do so after the switch had
        laid there what limits the VM. The switch lays it anew for a port that had none meanwhile.
        """
        db = self._place(ports.host).db
        limited = [port.name for port in ports.ports if port.bandwidth is not None]
        if not limited:
            return
        for port, qos in (await read_qos(db, limited)).items():
            try:
                for op in shaping.lay_anew(port, qos):
                    await db.transact_applied([op])
            except OperationError as exc:
                raise exc.translate(ports.host) from exc

    async def join(self, part: Control) -> None:
        """Give a slice its part of the control network on a switch, which it may share."""
        # One after another: here they would only lose races against each other.
        async with self._sharing[part.host]:
            await self._join(part)

    async def leave(self, part: Control) -> None:
        """Take a slice's part of the control network away, and what nobody else needs of it."""
        place = self._place(part.host)
        # A use that leaving takes away again, not one that it does not know of.
        bare = replace(part, uses=(part.uses or ("",))[:1])
        bridge = _control_bridge(part)
        whole = part.uses is None

        def decide(seen: Seen) -> Change:
            own = control.leave(part, place.switch, seen.rows)
            leaving = guard.all_of(seen.guard)
            return own.and_also(guard.leave(leaving, seen.guard)) if whole else own

        async def remove() -> tuple[bool, bool]:
            looks = partial(_look_at_all, place, bridge, others=True)
            first = await self._converge(place, bridge, looks, decide, leaving=True)
            return first.rows.bridge is not None, await has_bridge(place.db, control.NAME)

        async with self._sharing[part.host]:
            if whole:
                await self._forget_all(place, bridge)
            await self._take_away(place, remove, partial(self._join, bare, bare=whole))

    async def _join(self, part: Control, *, bare: bool = False) -> None:
        place, bridge = self._place(part.host), _control_bridge(part)
        tunnels = [names.tunnel(names.CONTROL_VNI, use) for use in part.uses or () if use]

        def decide(seen: Seen) -> Change:
            own = control.join(part, place.switch, seen.rows)
            return own.and_also(guard.join(bridge, place.switch, seen.guard, bare=bare))

        looks = partial(_look_at, place, bridge, tunnels)
        await self._converge(place, bridge, looks, decide)
        _check_tunnels(part.host, await read_interfaces(place.db, tunnels))

    async def attach(self, bridge: str, ports: Ports) -> None:
        """Add a slice's ports to a bridge that is the operator's, which must stand."""
        place = self._place(ports.host)

        async def look() -> Seen:
            wanted = [port.name for port in ports.ports]
            return Seen(rows=await read_bridge(place.db, bridge, wanted))

        await self._converge(
            place,
            ports,
            look,
            lambda seen: external.attach(bridge, ports, place.switch, seen.rows),
        )

    async def detach(self, ports: Ports) -> None:
        """Take a slice's ports off a bridge that is the operator's, whichever it is."""
        db = self._place(ports.host).db
        found = await read_tagged(db, ports.slice, [port.name for port in ports.ports])
        if found:
            await db.transact_applied(external.detach(found))

    async def attached(self, host: str, bridge: str) -> frozenset[str] | None:
        """Name the ports of a bridge; None where the switch of *host* has no such bridge."""
        db = self._place(host).db
        return await read_ports(db, bridge)

    async def probe(self, host: str) -> None:
        """Raise `Transient` unless the host's database answers and ovs-vswitchd keeps up."""
        db = self._place(host).db
        await db.transact_applied([])

    async def inventory(self, host: str) -> Inventory:
        """Return all that the host's switch holds of ours (shared switch: of all its sharers)."""
        db = self._place(host).db
        return await read_inventory(db)

    async def close(self) -> None:
        """Close the connections to all databases."""
        for place in self._places.values():
            await place.db.close()

    def _place(self, host: str) -> Place:
        if host not in self._places:
            raise Refused("host_not_found", f"host {host} is not in the settings")
        return self._places[host]

    async def _settle(self, place: Place, target: Bridge | Ports) -> None:
        """See what the switch made of the ports of *target*, and give VMs their flows."""
        of_interest = [port.name for port in target.ports if port.kind == "vxlan" or port.vm]
        rows = await read_interfaces(place.db, of_interest)
        _check_tunnels(target.host, rows)
        await place.guarding.set(rows)

    async def _converge(
        self,
        place: Place,
        target: Bridge | Ports,
        look: Looking,
        decide: Deciding,
        *,
        guess: Looking | None = None,
        leaving: bool = False,
    ) -> Seen:
        """Look and change, until there is nothing to change and all is applied.

        After a change another look is needed only at links that it had the switch open: all else
        is as it says, since its `wait` held. Whoever is *leaving* looks until nothing is left to
        do: of several who left the guard at one moment each saw the others' taps, and the last
        has to take it away. Returns what was seen first, or taken for seen: *guess* is what is
        tried before anything is looked at.
        """
        opened: set[str] = set()
        first: Seen | None = None
        for _ in range(ATTEMPTS):
            seen = _with_fresh(await (guess or look)(), opened)
            first, guess = first or seen, None
            change = decide(seen)
            try:
                await _carry_out(place.db, change, seen.rows.next_cfg)
            except OperationError as exc:
                if exc.error not in ("timed out", "constraint violation"):
                    raise exc.translate(target.host) from exc
                reason = str(exc)  # somebody else was faster: look again
                continue
            reason = "it never stays as it was left"
            if change.ops:
                count = len(change.ops)
                log.debug("switch changed", host=target.host, slice=target.slice, ops=count)
            looks_again = leaving and bool(change.ops)
            opened_now = await read_interfaces(place.db, change.opened)
            if not looks_again and not any(map(is_unsettled, opened_now)):
                return first
            opened |= change.opened
        raise Transient(
            "switch_error",
            f"slice {target.slice} on the switch of {target.host} does not settle: {reason}; "
            "see whether something else changes it",
        )


async def _carry_out(db: Ovsdb, change: Change, next_cfg: int) -> None:
    """Have the change made and applied; *next_cfg* is the number of what it was decided from."""
    if not change.notes_only:
        await db.transact_applied(change.ops)
        return
    if change.ops:
        await db.transact(change.ops)
    await db.applied(next_cfg)


async def _guess_nothing(place: Place, target: Bridge) -> Seen:
    """Take it that the slice's bridge does not stand; VMs' ports may be on the guard already.

    The transaction that removes the bridge takes those along, so without VMs none are there.
    """
    if not any(port.vm for port in target.ports):
        return Seen(rows=Snapshot())
    return Seen(rows=Snapshot(), guard=await read_guard(place.db, target, whole=True))


async def _look_at_all(place: Place, target: Bridge | Ports, *, others: bool = False) -> Seen:
    """Look at the slice's bridge with all its ports, and at all that it has on the guard."""
    wanted = [row.name for row in bridges.on_bridge(target.ports)]
    guards, rows = await asyncio.gather(
        read_guard(place.db, target, whole=True, others=others),
        read_bridge(place.db, names.bridge(target.vni), wanted),
    )
    return Seen(rows=rows, guard=guards)


async def _look_at(
    place: Place, target: Ports, wanted: Sequence[str] = (), *, others: bool = False
) -> Seen:
    """Look at no more than the ports of *target*, where those are VMs' of a tenant's slice."""
    few = target.ports and target.vni != names.CONTROL_VNI
    if few and all(port.vm is not None for port in target.ports):
        rows: Awaitable[Snapshot] = read_named(place.db, target)
    else:
        also = [row.name for row in bridges.on_bridge(target.ports)]
        rows = read_bridge(place.db, names.bridge(target.vni), [*wanted, *also])
    guards = read_guard(place.db, target, whole=False, others=others)
    on_guard, seen = await asyncio.gather(guards, rows)
    return Seen(rows=seen, guard=on_guard)


def _with_fresh(seen: Seen, opened: set[str]) -> Seen:
    on_guard = replace(seen.guard, rows=with_fresh(seen.guard.rows, opened))
    return Seen(rows=with_fresh(seen.rows, opened), guard=on_guard)


def _control_bridge(part: Control) -> Ports:
    """Name the bridge of the control network on the switch of *part*."""
    return Ports(host=part.host, slice=part.slice, vni=names.CONTROL_VNI, ports=())


def _check_tunnels(host: str, rows: Iterable[InterfaceRow]) -> None:
    """Refuse if the switch could not make one of the tunnel ports."""
    wrong = [f"{row.name}: {row.error}" for row in rows if row.type == "vxlan" and row.error]
    if wrong:
        raise Refused("switch_error", f"the switch of {host} cannot make {'; '.join(wrong)}")


async def _timed(work: Awaitable[T]) -> tuple[T, float]:
    began = asyncio.get_running_loop().time()
    done = await work
    return done, asyncio.get_running_loop().time() - began
