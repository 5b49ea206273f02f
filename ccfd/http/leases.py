"""Who holds a lease of a slice's DHCP server."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web
from sqlalchemy import select

from ccfd.errors import Refused
from ccfd.http.api import answer
from ccfd.network.leases import GivenLease
from ccfd.store import tables
from ccfd.store.database import Database
from ccfd.store.outbox import timestamp

Given = Callable[[int], Sequence[GivenLease]]
"""Who can list what the server of a slice has given out, by its VNI."""


def routes(database: Database, given: Given) -> list[web.RouteDef]:
    """List the path that the API serves."""

    async def get(request: web.Request) -> web.Response:
        """List the leases that the slice's VMs hold."""
        name = request.match_info["name"]
        slices, vm = tables.slices.c, tables.vm.c
        async with database.read() as transaction:
            row = await transaction.one(select(slices.vni).where(slices.name == name))
            if row is None:
                raise Refused("slice_not_found", f"there is no slice {name}")
            vms = await transaction.all(select(vm.id, vm.name, vm.mac).where(vm.slice == name))
            now = transaction.now
        known = {one.mac: one for one in vms}
        held = sorted(
            (lease for lease in given(row.vni) if lease.expires > now.timestamp()),
            key=lambda lease: IPv4Address(lease.ip),
        )
        items = [_document(lease, known.get(lease.mac)) for lease in held]
        return answer({"items": items, "next": None})

    return [web.get("/v1/slices/{name}/leases", get)]


def _document(lease: GivenLease, vm: Any) -> dict[str, Any]:
    return {
        "vm": vm.id if vm else None,
        "name": vm.name if vm else lease.name,
        "ip": lease.ip,
        "mac": lease.mac,
        "renewed_at": timestamp(datetime.fromtimestamp(lease.renewed, UTC)),
        "expires_at": timestamp(datetime.fromtimestamp(lease.expires, UTC)),
    }
