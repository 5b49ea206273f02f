"""What hosts are told of slices and VMs: enough to make the database's rows of it again.

Each bridge of a slice and each domain carries a line of JSON (ASCII): the plan's value without
what is at its default. A reader passes over fields that it does not know.
"""

import ipaddress
import json
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from ccfd.errors import Refused
from ccfd.model.slice import PlannedSlice, PlannedVm
from ccfd.requests.events import Bandwidth, Monitoring, Name, VmSpec
from ccfd.workflow.steps import adapter


def of_slice(planned: PlannedSlice) -> str:
    """Write what a bridge tells of its slice: all but the VMs, which tell of themselves.

    Nor the slice's own public key: without the private half, which no host has, it is of no use.
    """
    return _write(PlannedSlice, planned, {"vms", "ssh_key"})


def of_vm(vm: PlannedVm) -> str:
    """Write what a domain tells of its VM."""
    return _write(PlannedVm, vm, set())


def read_slice(text: str) -> PlannedSlice:
    """Read what a bridge tells. Raises `Refused` (`invalid_state`) where it is not all there."""
    planned: PlannedSlice = _read(PlannedSlice, text)
    _check(Name, planned.name)
    _check(ipaddress.IPv4Interface, planned.address)
    _check(ipaddress.IPv4Address | None, planned.gateway)
    if planned.monitoring is not None:
        _check(Monitoring, {name: to for name, to in asdict(planned.monitoring).items() if to})
    if planned.created_at is None or planned.expires_at is None:
        raise _unreadable("created_at or expires_at is missing")
    return planned


def read_vm(text: str) -> PlannedVm:
    """Read what a domain tells. Raises `Refused` (`invalid_state`) where it is not all there."""
    vm: PlannedVm = _read(PlannedVm, text)
    size = {"cpu": vm.cpu, "ram": vm.ram, "disk": vm.disk}
    _check(VmSpec, {"name": vm.name, "image": vm.image.name, **size})
    _check(Name | None, vm.flavor)
    _check(Bandwidth | None, vm.bandwidth)
    _check(ipaddress.IPv4Address, vm.ip)
    if vm.kind not in ("slice", "controller") or vm.created_at is None:
        raise _unreadable(f"kind {vm.kind}, created_at {vm.created_at}")
    return vm


def _write(kind: Any, value: Any, without: set[str]) -> str:
    told = adapter(kind).dump_python(value, mode="json", exclude=without, exclude_defaults=True)
    return json.dumps(told, separators=(",", ":"))


def _read(kind: Any, text: str) -> Any:
    if not text:
        raise _unreadable("there is nothing: an older release made it")
    try:
        return adapter(kind).validate_json(text)
    except ValidationError as exc:
        raise _unreadable(_told(exc)) from exc


def _check(kind: Any, value: Any) -> None:
    try:
        adapter(kind).validate_python(value)
    except ValidationError as exc:
        raise _unreadable(_told(exc)) from exc


def _told(exc: ValidationError) -> str:
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in errors
    )


def _unreadable(why: str) -> Refused:
    return Refused("invalid_state", f"what it tells is incomplete: {why}")
