"""Opens a slice's way out in its namespace, closes it, and tells which ones are whole.

What was opened is remembered in the slice's directory, `<state>/<vni>/gateway`: the mark of what
was asked for, and a digest of how it looked when it was done. Whatever looks different later has
been changed by somebody else.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ccfd.errors import Refused, Transient
from ccfd.model import names
from ccfd.model.network import Gateway, Port, Ports
from ccfd.network import gateway_plan, state
from ccfd.network.commands import CommandError, run
from ccfd.network.gateway_plan import OUTSIDE, Present, WayOut
from ccfd.network.links import Link
from ccfd.network.namespaces import delete_link, is_namespace, look_at_links
from ccfd.settings import Settings

FILE = "gateway"
AT_ONCE = 4
"""Namespaces that are looked into side by side."""


class Switch(Protocol):
    """The network node's switch, for ports on a bridge that is not ours."""

    async def attach(self, bridge: str, ports: Ports) -> None:
        """Add a slice's ports to the bridge."""

    async def detach(self, ports: Ports) -> None:
        """Take a slice's ports off their bridge."""

    async def attached(self, host: str, bridge: str) -> frozenset[str] | None:
        """Name the ports of the bridge; None where there is no such bridge."""


class Gateways:
    """The slices' ways out by `[network_node] external_interface`.

    Both effects may be repeated. They raise `Refused` (`switch_error`: no namespace, another
    slice's, no such interface, a program is missing) and `Transient` (`switch_error`, `timeout`).
    """

    def __init__(self, settings: Settings, switch: Switch) -> None:
        self._state = Path(settings.network_node.state)
        self._external = settings.network_node.external_interface
        self._switch = switch

    async def open(self, gateway: Gateway) -> None:
        """Have the gateway exactly as it is described, whatever of it stands already.

        The firewall comes first, and the leg meets the outside last.
        """
        name = names.namespace(gateway.vni)
        if not is_namespace(state.NETNS / name):
            raise Refused(
                "switch_error", f"slice {gateway.slice} has no namespace {name}: open it first"
            )
        place = state.folder(self._state, gateway.vni)
        state.claim(place, gateway.slice)
        try:
            state.write(place / FILE, "")
            way = await self._way_out()
            await run(_in(name, "nft", "-f", "-"), text=gateway_plan.ruleset(gateway))
            await self._connect(gateway, way)
            looks = await _looks(gateway.vni)
            state.write(place / FILE, f"{gateway_plan.mark(gateway)} {looks}\n")
        except CommandError as exc:
            raise exc.translate() from exc
        except OSError as exc:
            raise Transient("switch_error", f"cannot write in {place}: {exc.strerror}") from exc

    async def close(self, gateway: Gateway) -> None:
        """Remove the leg, the port and the firewall. Another slice's gateway is left alone."""
        place = state.folder(self._state, gateway.vni)
        if state.owner(place) not in (None, gateway.slice):
            return
        name = names.namespace(gateway.vni)
        try:
            await self._switch.detach(_port(gateway))
            await delete_link(names.outside_port(gateway.vni))
            if is_namespace(state.NETNS / name):
                await run(_in(name, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0"))
                if OUTSIDE in await look_at_links("-netns", name):
                    await run(["ip", "-netns", name, "link", "delete", OUTSIDE])
                await run(_in(name, "nft", "-f", "-"), text=gateway_plan.NO_TABLE)
        except CommandError as exc:
            raise exc.translate() from exc
        state.forget(place, (FILE,))

    async def seen(self, vnis: Iterable[int]) -> Mapping[int, str]:
        """Return the marks of those of the slices *vnis* that have a gateway, or a part of one.

        The mark of one that is not as it was opened is empty.
        """
        opened = {
            vni: text.split()
            for vni in vnis
            if (text := state.read(state.folder(self._state, vni) / FILE)) is not None
        }
        if not opened:
            return {}
        limit = asyncio.Semaphore(AT_ONCE)

        async def look(vni: int, remembered: list[str]) -> str:
            if len(remembered) != 2 or vni not in joined:
                return ""
            async with limit:
                try:
                    return remembered[0] if await _looks(vni) == remembered[1] else ""
                except CommandError:  # its namespace is gone, or the table
                    return ""

        try:
            joined = await self._joined(opened)
        except CommandError as exc:
            raise exc.translate() from exc
        marks = await asyncio.gather(*(look(vni, text) for vni, text in opened.items()))
        return dict(zip(opened, marks, strict=True))

    async def _way_out(self) -> WayOut:
        """Find out what the external interface is. Raises `Refused` where there is none."""
        link = (await look_at_links()).get(self._external)
        if await self._switch.attached(names.NODE, self._external) is not None:
            return _way(self._external, link, "switch")
        if link is None:
            raise Refused(
                "switch_error",
                f"there is no {self._external} for gateways to go out by: make it, or set"
                " [network_node] external_interface",
            )
        return _way(self._external, link, "bridge" if link.kind == "bridge" else "device")

    async def _connect(self, gateway: Gateway, way: WayOut) -> None:
        name = names.namespace(gateway.vni)
        if way.kind != "switch":  # the setting may have named a switch's bridge before
            await self._switch.detach(_port(gateway))
        outer = (await look_at_links()).get(names.outside_port(gateway.vni))
        work = gateway_plan.open_leg(gateway, way, outer, await _present(gateway.vni))
        for lines, options in (
            (work.clear, ("-netns", name)),
            (work.here, ()),
            (work.within, ("-netns", name)),
        ):
            if lines:
                await run(["ip", *options, "-batch", "-"], text="\n".join(lines) + "\n")
        if way.kind != "device":
            # See `namespaces`: a leg of a userspace switch must fill in checksums itself.
            await run(_in(name, "ethtool", "-K", OUTSIDE, "tx", "off"))
        await run(_in(name, "sysctl", "-q", "-w", *gateway_plan.SYSCTLS, "net.ipv4.ip_forward=1"))
        if way.kind == "switch":
            await self._switch.attach(way.name, _port(gateway))

    async def _joined(self, vnis: Iterable[int]) -> frozenset[int]:
        """Return those of *vnis* whose leg is on the external interface."""
        links = await look_at_links()
        ports = await self._switch.attached(names.NODE, self._external)
        if ports is not None:
            return frozenset(vni for vni in vnis if names.outside_port(vni) in ports & links.keys())
        if self._external not in links:
            return frozenset()
        if links[self._external].kind != "bridge":
            return frozenset(vnis)  # a macvlan goes with the link that it is on
        outer = {vni: links.get(names.outside_port(vni)) for vni in vnis}
        return frozenset(
            vni for vni, link in outer.items() if link and link.master == self._external
        )


def _way(name: str, link: Link | None, kind: gateway_plan.Kind) -> WayOut:
    """Describe the external interface; a switch's bridge may have no link here."""
    ifindex, mtu = (link.ifindex, link.mtu) if link else (0, 1500)
    return WayOut(name=name, kind=kind, ifindex=ifindex, mtu=mtu)


def _port(gateway: Gateway) -> Ports:
    port = Port(name=names.outside_port(gateway.vni), kind="system")
    return Ports(host=names.NODE, slice=gateway.slice, vni=gateway.vni, ports=(port,))


def _in(namespace: str, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *argv]


async def _present(vni: int) -> Present:
    name = names.namespace(vni)
    printed = await run(["ip", "-netns", name, "-json", "-batch", "-"], text=gateway_plan.LOOK)
    return gateway_plan.read_present(printed)


async def _looks(vni: int) -> str:
    """Digest how a gateway looks; counters and the like are left out."""
    listed = await run(
        _in(
            names.namespace(vni), "nft", "--stateless", "list", "table", *gateway_plan.TABLE.split()
        )
    )
    return gateway_plan.digest(listed, repr(await _present(vni)))
