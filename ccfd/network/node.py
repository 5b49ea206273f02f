"""Tells what the network node holds of each slice besides its switch."""

from dataclasses import dataclass
from pathlib import Path

from ccfd.errors import Transient
from ccfd.network import state
from ccfd.network.dhcp import DhcpServers
from ccfd.network.gateways import Gateways
from ccfd.network.namespaces import Namespaces
from ccfd.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSlice:
    """What stands of a slice: `joined` means a namespace with its leg.

    `dhcp` and `gateway` are the marks of its server and its gateway: None where there is none,
    empty where it is not whole. A directory for the slice's files may stand alone.
    """

    vni: int
    slice: str
    joined: bool
    dhcp: str | None = None
    gateway: str | None = None


class Node:
    """The namespaces, DHCP servers and gateways of this machine, as seen from outside."""

    def __init__(
        self, settings: Settings, namespaces: Namespaces, dhcp: DhcpServers, gateways: Gateways
    ) -> None:
        self._state = Path(settings.network_node.state)
        self._namespaces = namespaces
        self._dhcp = dhcp
        self._gateways = gateways

    async def inventory(self) -> tuple[SeenSlice, ...]:
        """List what slices hold here; what nobody has claimed is not ours. Raises `Transient`."""
        try:
            owners = state.owners(self._state)
        except OSError as exc:
            raise Transient("switch_error", f"cannot read {self._state}: {exc.strerror}") from exc
        joined = await self._namespaces.joined(owners)
        gateways = await self._gateways.seen(owners)
        return tuple(
            SeenSlice(
                vni=vni,
                slice=whose,
                joined=vni in joined,
                dhcp=self._dhcp.mark(vni),
                gateway=gateways.get(vni),
            )
            for vni, whose in owners.items()
        )
