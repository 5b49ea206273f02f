"""The path that tells how a slice's network hangs together, and what goes through it."""

from collections.abc import Iterator
from typing import Protocol

from aiohttp import web

from ccfd.documents import COLLECTIONS, Document
from ccfd.http.api import answer
from ccfd.model import names
from ccfd.network.mirror import WatchedBridge, WatchedPort
from ccfd.settings import Settings
from ccfd.store.database import Database
from ccfd.topology import Seat, is_there, topology


class Switches(Protocol):
    """Who knows what switches look like."""

    def problem(self, host: str) -> str | None:
        """Tell why the switch of *host* is not heard; None while it is."""

    def bridge(self, host: str, name: str) -> WatchedBridge | None:
        """Return our bridge *name* on the switch of *host*."""

    def ports(self, host: str) -> Iterator[WatchedPort]:
        """Yield all ports of ours on the switch of *host*."""


def routes(settings: Settings, database: Database, switches: Switches) -> list[web.RouteDef]:
    """List the path that the API serves."""

    async def get(request: web.Request) -> web.Response:
        """Tell how the slice's network hangs together, and what goes through it."""
        async with database.read() as transaction:
            found = await COLLECTIONS["slices"].one(request.match_info["name"], transaction)
        return answer(describe(found, settings, switches))

    return [web.get("/v1/slices/{name}/topology", get)]


def describe(slice_: Document, settings: Settings, switches: Switches) -> Document:
    """Describe the slice by what its switches tell now."""
    node = settings.network_node.tunnel_ip
    tunnel_ips = {host.name: host.tunnel_ip for host in settings.host}
    vms = [vm for vm in slice_["vms"] if is_there(vm)]
    # A host that ends tunnels where the network node does shares its switch.
    switch_of: dict[str, str] = {
        vm["host"]: names.NODE if tunnel_ips.get(vm["host"]) == node else vm["host"]
        for vm in vms
        if vm["host"] in tunnel_ips
    }
    joined = {switch_of.get(vm["host"]) for vm in vms if vm["kind"] != "controller"}
    others = sorted(one for one in {*switch_of.values()} if one != names.NODE)
    seats = [
        Seat(
            host=host,
            tunnel_ip=tunnel_ips.get(host, node),
            joined=host == names.NODE or host in joined,
            problem=switches.problem(host),
            bridge=_bridge(slice_, host, switches),
            ports=tuple(port for port in switches.ports(host) if port.slice == slice_["slice"]),
        )
        for host in (names.NODE, *others)
    ]
    return topology(slice_, seats, switch_of)


def _bridge(slice_: Document, host: str, switches: Switches) -> WatchedBridge | None:
    found = switches.bridge(host, names.bridge(slice_["vni"]))
    return found if found is not None and found.slice == slice_["slice"] else None
