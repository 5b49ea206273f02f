"""What the outside sees: the documents of the API and of results, from the rows.

What a row does not have is asked for once for all rows of a page.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, Text, and_, cast, func, or_, select
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
Rows = Sequence[Row[Any]]
Recorded = list[tuple[Step, StepRecord]]

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
        "bandwidth": row.bandwidth,
        "flavor": row.flavor,
        "image": row.image["name"] if row.image else None,
        "host": row.host,
        "snapshots": row.snapshots,
        "error": row.error,
        "created_at": timestamp(row.created_at),
    }


async def slice_documents(rows: Rows, transaction: Transaction) -> list[Document]:
    """Describe slices with their VMs."""
    named = [row.name for row in rows]
    nets = await subnets.find_all(named, transaction)
    vms: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for vm in await transaction.all(
        select(tables.vm)
        .where(tables.vm.c.slice.in_(named))
        .order_by(tables.vm.c.created_at, tables.vm.c.name)
    ):
        vms[vm.slice].append(vm)
    return [_slice_document(row, nets.get(row.name), vms[row.name]) for row in rows]


def _slice_document(row: Row[Any], net: Row[Any] | None, vms: Rows) -> Document:
    return {
        "slice": row.name,
        "state": row.state,
        "island": row.island,
        "subnet": subnets.gateway_of(net) if net else None,
        "cidr": subnets.cidr_of(net) if net else None,
        "gateway": row.gateway,
        "dhcp": row.dhcp,
        "controller": row.controller,
        # What the bridges of a slice are at is of no meaning any more when it has no controller.
        "controller_connected": bool(row.controller_connected) if row.controller else None,
        "monitoring": row.monitoring,
        "vni": row.vni,
        "hosts": sorted({vm.host for vm in vms if vm.host is not None}),
        "vms": [vm_document(vm) for vm in vms],
        "created_at": timestamp(row.created_at),
        "expires_at": timestamp(row.expires_at),
        "description": row.description,
        "project": row.project,
        "user": row.user,
    }


def subnet_document(row: Row[Any]) -> Document:
    """Describe a subnet."""
    return {
        "owner": row.owner,
        "subnet": subnets.gateway_of(row),
        "cidr": subnets.cidr_of(row),
        "network": row.network,
        "state": row.state,
        "expires_at": timestamp(row.expires_at) if row.expires_at else None,
    }


async def network_documents(rows: Rows, transaction: Transaction) -> list[Document]:
    """Describe networks and what of them is used."""
    usage = await networks.usage(rows, transaction)
    return [
        {
            "cidr": row.cidr,
            "type": row.type,
            "island": row.island,
            "addresses": dict(zip(("total", "used"), usage[row.cidr], strict=True)),
        }
        for row in rows
    ]


async def host_documents(rows: Rows, transaction: Transaction) -> list[Document]:
    """Describe hosts and what of them is used."""
    at = tables.vm.c.host
    counted = await transaction.all(
        select(at, func.count().label("vms")).where(at.in_([row.name for row in rows])).group_by(at)
    )
    counts = {one.host: one.vms for one in counted}
    return [_host_document(row, counts.get(row.name, 0)) for row in rows]


def _host_document(row: Row[Any], vms: int) -> Document:
    return {
        "host": row.name,
        "island": row.island,
        "state": state_of(up=row.up, draining=row.draining),
        "cpu": {"total": row.cpu_total, "used": row.cpu_used},
        "ram": {"total": row.ram_total, "used": row.ram_used},
        "disk": {"total": row.disk_total, "used": row.disk_used},
        "vms": vms,
    }


def flavor_document(row: Row[Any]) -> Document:
    """Describe a flavor."""
    sizes = ("cpu", "ram", "disk", "bandwidth")
    return {"flavor": row.name, **{size: getattr(row, size) for size in sizes}}


def image_document(row: Row[Any]) -> Document:
    """Describe an image."""
    return {
        "image": row.name,
        "id": row.id,
        "size": row.size,
        "checksum": row.checksum,
        "state": "active",
    }


def console_document(row: Row[Any]) -> Document:
    """Describe an open console."""
    return {
        "console": row.id,
        "vm": row.vm,
        "slice": row.slice,
        "type": row.kind,
        "view_only": row.view_only,
        "opened_by": row.issued_to,
        "opened_from": row.opened_from,
        "opened_at": timestamp(row.opened_at),
    }


async def request_documents(rows: Rows, transaction: Transaction) -> list[Document]:
    """Describe requests with their steps."""
    documents = []
    logs = await _logs(rows, transaction)
    for row in rows:
        documents.append(_request_document(row, _steps(row, logs)))
        # A long journal takes a moment to read: others get a turn.
        await asyncio.sleep(0)
    return documents


def _request_document(row: Row[Any], steps: Recorded) -> Document:
    terminal = row.terminal or {}
    ended = {
        name: terminal[name] for name in ("result", "error", "compensated") if name in terminal
    }
    shown = [
        {
            "name": step.name,
            "state": record.state.value,
            "attempts": record.attempts,
            "started_at": _moment(record.started_at),
            "ended_at": _moment(record.ended_at),
            "error": record.error,
        }
        for step, record in steps
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
        "steps": shown,
        **ended,
    }


async def _logs(rows: Rows, transaction: Transaction) -> dict[int, str]:
    """Return the journals of those requests that became workflows."""
    workflow = tables.workflow.c
    found = await transaction.all(
        select(workflow.seq, workflow.journal).where(workflow.seq.in_([row.seq for row in rows]))
    )
    return {one.seq: one.journal for one in found}


def _steps(row: Row[Any], logs: Mapping[int, str]) -> Recorded:
    """Return the steps of a request, if it became a workflow, each with what became of it."""
    if row.seq not in logs:
        return []
    steps = Steps.from_json(row.steps)
    return list(zip(steps.flat, Journal.read(logs[row.seq], steps).records, strict=True))


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
    logs = await _logs(rows, transaction)
    for row in rows:
        steps = _steps(row, logs)
        document = _request_document(row, steps)
        for shown, (step, record) in zip(document["steps"], steps, strict=True):
            shown |= {"args": step.args, "calls": record.calls}
        await asyncio.sleep(0)
        message = {"correlation_id": row.correlation_id, "reply_to": row.reply_to}
        items.append({**document, "message": {**message, "body": row.body}})
    return {"items": items, "next": None}


@dataclass(frozen=True, slots=True)
class Collection:
    """A list of the API: its table, how a row is found, ordered, filtered and described."""

    table: Table
    key: str
    filters: frozenset[str]
    describe: Callable[[Rows, Transaction], Awaitable[list[Document]]]
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
        items = await self.describe(rows[:limit], transaction)
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
        (document,) = await self.describe([row], transaction)
        return document


def _by_itself(
    describe: Callable[[Row[Any]], Document],
) -> Callable[[Rows, Transaction], Awaitable[list[Document]]]:
    """Make a description of rows that have all that is to be said."""

    async def describe_all(rows: Rows, _transaction: Transaction) -> list[Document]:
        return [describe(row) for row in rows]

    return describe_all


COLLECTIONS: dict[str, Collection] = {
    "slices": Collection(
        tables.slices,
        "name",
        frozenset({"state", "island", "project", "user"}),
        slice_documents,
        "slice_not_found",
    ),
    "vms": Collection(
        tables.vm,
        "id",
        frozenset({"slice", "name", "state", "host", "kind", "flavor"}),
        _by_itself(vm_document),
        "vm_not_found",
    ),
    "subnets": Collection(
        tables.subnet,
        "owner",
        frozenset({"network", "state", "owner"}),
        _by_itself(subnet_document),
        "subnet_not_found",
    ),
    "networks": Collection(
        tables.network,
        "cidr",
        frozenset({"island"}),
        network_documents,
        "subnet_not_found",
    ),
    "hosts": Collection(
        tables.host,
        "name",
        frozenset({"island"}),
        host_documents,
        "host_not_found",
        tables.host.c.configured,
    ),
    "flavors": Collection(
        tables.flavor,
        "name",
        frozenset(),
        _by_itself(flavor_document),
        "flavor_not_found",
        ~tables.flavor.c.deleted,
    ),
    "images": Collection(
        tables.image, "name", frozenset(), _by_itself(image_document), "image_not_found"
    ),
    "consoles": Collection(
        tables.console,
        "id",
        frozenset({"vm", "slice"}),
        _by_itself(console_document),
        "console_not_found",
        and_(tables.console.c.opened_at.is_not(None), tables.console.c.closed_at.is_(None)),
    ),
    "workflows": Collection(
        tables.request,
        "seq",
        frozenset({"state", "type", "key"}),
        request_documents,
        "request_not_found",
        tables.request.c.plan.is_not(None),
    ),
}
