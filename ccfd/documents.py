"""What the outside sees: the documents of the API and of results, from the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, Text, cast, func, or_, select
from sqlalchemy.engine import Row

from ccfd.errors import ErrorCode, Refused
from ccfd.ipam import networks, subnets
from ccfd.sched.claims import state_of
from ccfd.store import tables
from ccfd.store.database import Transaction
from ccfd.store.outbox import timestamp
from ccfd.workflow.journal import Journal, StepRecord
from ccfd.workflow.steps import Step, Steps

Document = dict[str, Any]

HISTORY = 1000
"""Requests that a history tells of at most, oldest first."""


def vm_document(row: Row[Any]) -> Document:
    """Describe a VM."""
    return {
        "vm": row.id,
        "name": row.name,
        "slice": row.slice,
        "kind": row.kind,
        "state": row.state,
        "ip": row.ip,
        "mac": row.mac,
        "cpu": row.cpu,
        "ram": row.ram,
        "disk": row.disk,
        "flavor": row.flavor,
        "image": row.image["name"] if row.image else None,
        "host": row.host,
        "error": row.error,
        "created_at": timestamp(row.created_at),
    }


async def slice_document(row: Row[Any], transaction: Transaction) -> Document:
    """Describe a slice with its VMs."""
    net = await subnets.find(row.name, transaction)
    vms = await transaction.all(
        select(tables.vm)
        .where(tables.vm.c.slice == row.name)
        .order_by(tables.vm.c.created_at, tables.vm.c.name)
    )
    return {
        "slice": row.name,
        "state": row.state,
        "island": row.island,
        "subnet": subnets.gateway_of(net) if net else None,
        "cidr": subnets.cidr_of(net) if net else None,
        "gateway": row.gateway,
        "dhcp": row.dhcp,
        "controller": row.controller,
        "vni": row.vni,
        "hosts": sorted({vm.host for vm in vms if vm.host is not None}),
        "vms": [vm_document(vm) for vm in vms],
        "created_at": timestamp(row.created_at),
        "expires_at": timestamp(row.expires_at),
        "description": row.description,
        "project": row.project,
        "user": row.user,
    }


async def subnet_document(row: Row[Any], _transaction: Transaction) -> Document:
    """Describe a subnet."""
    return {
        "owner": row.owner,
        "subnet": subnets.gateway_of(row),
        "cidr": subnets.cidr_of(row),
        "network": row.network,
        "state": row.state,
        "expires_at": timestamp(row.expires_at) if row.expires_at else None,
    }


async def network_document(row: Row[Any], transaction: Transaction) -> Document:
    """Describe a network and what of it is used."""
    total, used = await networks.usage(row, transaction)
    return {
        "cidr": row.cidr,
        "type": row.type,
        "island": row.island,
        "addresses": {"total": total, "used": used},
    }


async def host_document(row: Row[Any], transaction: Transaction) -> Document:
    """Describe a host and what of it is used."""
    count = await transaction.scalar(
        select(func.count()).select_from(tables.vm).where(tables.vm.c.host == row.name)
    )
    return {
        "host": row.name,
        "island": row.island,
        "state": state_of(up=row.up, draining=row.draining),
        "cpu": {"total": row.cpu_total, "used": row.cpu_used},
        "ram": {"total": row.ram_total, "used": row.ram_used},
        "disk": {"total": row.disk_total, "used": row.disk_used},
        "vms": count,
    }


async def flavor_document(row: Row[Any], _transaction: Transaction) -> Document:
    """Describe a flavor."""
    return {"flavor": row.name, "cpu": row.cpu, "ram": row.ram, "disk": row.disk}


async def image_document(row: Row[Any], _transaction: Transaction) -> Document:
    """Describe an image."""
    return {
        "image": row.name,
        "id": row.id,
        "size": row.size,
        "checksum": row.checksum,
        "state": "active",
    }


async def _vm(row: Row[Any], _transaction: Transaction) -> Document:
    return vm_document(row)


async def request_document(row: Row[Any], transaction: Transaction) -> Document:
    """Describe a request with its steps."""
    terminal = row.terminal or {}
    ended = {
        name: terminal[name] for name in ("result", "error", "compensated") if name in terminal
    }
    steps = [
        {
            "name": step.name,
            "state": record.state.value,
            "attempts": record.attempts,
            "started_at": _moment(record.started_at),
            "ended_at": _moment(record.ended_at),
            "error": record.error,
        }
        for step, record in await _steps(row, transaction)
    ]
    return {
        "request_id": row.request_id,
        "workflow_id": row.workflow_id,
        "type": row.type,
        "key": row.key,
        "state": row.state,
        "received_at": timestamp(row.received_at),
        "started_at": timestamp(row.started_at) if row.started_at else None,
        "ended_at": timestamp(row.ended_at) if row.ended_at else None,
        "steps": steps,
        **ended,
    }


async def _steps(row: Row[Any], transaction: Transaction) -> list[tuple[Step, StepRecord]]:
    """Return the steps of a request, if it became a workflow, each with what became of it."""
    log = await transaction.scalar(
        select(tables.workflow.c.journal).where(tables.workflow.c.seq == row.seq)
    )
    if log is None:
        return []
    steps = Steps.from_json(row.steps)
    return list(zip(steps.flat, Journal.read(log, steps).records, strict=True))


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(datetime.fromtimestamp(seconds, UTC))


async def history(name: str, transaction: Transaction) -> Document:
    """Tell all that is remembered of a slice, a VM (by id) or a request.

    What was asked, decided and done, with each step's calls to hosts. Raises `Refused`
    (`request_not_found`).
    """
    request = tables.request
    about = or_(
        request.c.request_id == name,
        request.c.key == f"slice:{name}",
        # A VM is named in the plans of whatever made, changed or removed it.
        cast(request.c.plan, Text).contains(f'"{name}"', autoescape=True),
    )
    rows = await transaction.all(
        select(request).where(about).order_by(request.c.seq).limit(HISTORY)
    )
    if not rows:
        raise Refused("request_not_found", f"nothing is remembered of {name!r}")
    items = []
    for row in rows:
        document = await request_document(row, transaction)
        steps = await _steps(row, transaction)
        for shown, (step, record) in zip(document["steps"], steps, strict=True):
            shown |= {"args": step.args, "calls": record.calls}
        message = {"correlation_id": row.correlation_id, "reply_to": row.reply_to}
        items.append({**document, "message": {**message, "body": row.body}})
    return {"items": items, "next": None}


@dataclass(frozen=True, slots=True)
class Collection:
    """A list of the API: its table, how a row is found, ordered, filtered and described."""

    table: Table
    key: str
    filters: frozenset[str]
    describe: Any
    not_found: ErrorCode
    where: ColumnElement[bool] | None = None

    async def page(
        self, limit: int, after: str | None, filters: Mapping[str, str], transaction: Transaction
    ) -> Document:
        """Return one page: `{"items": […], "next": cursor or null}`."""
        key = self.table.c[self.key]
        query = select(self.table).order_by(key).limit(limit + 1)
        if self.where is not None:
            query = query.where(self.where)
        if after is not None:
            query = query.where(key > (int(after) if self.key == "seq" else after))
        for name, value in filters.items():
            query = query.where(self.table.c[name] == value)
        rows = await transaction.all(query)
        items = [await self.describe(row, transaction) for row in rows[:limit]]
        more = len(rows) > limit
        return {"items": items, "next": str(getattr(rows[limit - 1], self.key)) if more else None}

    async def one(self, name: str, transaction: Transaction, by: str | None = None) -> Document:
        """Return one document; raise `Refused` when there is none."""
        query = select(self.table).where(self.table.c[by or self.key] == name)
        if self.where is not None:
            query = query.where(self.where)
        row = await transaction.one(query)
        if row is None:
            raise Refused(self.not_found, f"there is no {self.table.name} {name!r}")
        document: Document = await self.describe(row, transaction)
        return document


COLLECTIONS: dict[str, Collection] = {
    "slices": Collection(
        tables.slices,
        "name",
        frozenset({"state", "island", "project", "user"}),
        slice_document,
        "slice_not_found",
    ),
    "vms": Collection(
        tables.vm,
        "id",
        frozenset({"slice", "name", "state", "host", "kind", "flavor"}),
        _vm,
        "vm_not_found",
    ),
    "subnets": Collection(
        tables.subnet,
        "owner",
        frozenset({"network", "state", "owner"}),
        subnet_document,
        "subnet_not_found",
    ),
    "networks": Collection(
        tables.network,
        "cidr",
        frozenset({"island"}),
        network_document,
        "subnet_not_found",
    ),
    "hosts": Collection(
        tables.host,
        "name",
        frozenset({"island"}),
        host_document,
        "host_not_found",
        tables.host.c.configured,
    ),
    "flavors": Collection(
        tables.flavor,
        "name",
        frozenset(),
        flavor_document,
        "flavor_not_found",
        ~tables.flavor.c.deleted,
    ),
    "images": Collection(tables.image, "name", frozenset(), image_document, "image_not_found"),
    "workflows": Collection(
        tables.request,
        "seq",
        frozenset({"state", "type", "key"}),
        request_document,
        "request_not_found",
        tables.request.c.plan.is_not(None),
    ),
}
