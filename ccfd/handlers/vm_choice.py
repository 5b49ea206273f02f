"""How the VMs of a request are decided: size, image, host, address, name; and how it is undone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select, update

from ccfd.errors import Refused
from ccfd.ipam import control, subnets
from ccfd.model import names
from ccfd.model.slice import PlannedVm
from ccfd.model.vm import Image
from ccfd.requests.events import VmSpec
from ccfd.sched import claims
from ccfd.sched.hosts import Want
from ccfd.settings import Policy
from ccfd.store import tables
from ccfd.store.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """vCPUs, MiB, GiB, and Mbit/s each way (None: no limit) that a VM has."""

    cpu: int
    ram: int
    disk: int
    bandwidth: int | None


async def choose(
    slice_name: str,
    island: str,
    vni: int,
    specs: Sequence[VmSpec],
    transaction: Transaction,
    *,
    policy: Policy,
    kind: str = "slice",
) -> tuple[PlannedVm, ...]:
    """Decide *specs* and claim what they need; the VMs' rows say `building`.

    VMs of the *kind* `controller` have their addresses on the control network, with VNI *vni*.

    Raises `Refused`: `vm_exists`, `flavor_not_found`, `image_not_found`, `host_not_found`,
    `no_valid_host`, `address_exhausted`.
    """
    if not specs:
        return ()
    ids = [str(uuid4()) for _ in specs]
    called = [spec.name or f"vm-{vm[:8]}" for spec, vm in zip(specs, ids, strict=True)]
    await _refuse_known(slice_name, called, transaction)
    sizes = [await _size(spec, transaction) for spec in specs]
    images = [
        await _image(spec.image, size.disk, transaction)
        for spec, size in zip(specs, sizes, strict=True)
    ]
    wants = [
        Want(
            name=name,
            cpu=size.cpu,
            ram=size.ram,
            disk=size.disk,
            island=island,
            image=image.checksum,
            host=spec.host,
            same_host=spec.same_host,
            different_host=spec.different_host,
        )
        for spec, name, image, size in zip(specs, called, images, sizes, strict=True)
    ]
    hosts = await claims.place(slice_name, wants, policy, transaction)
    vms = []
    for spec, vm, want, size, image, host in zip(
        specs, ids, wants, sizes, images, hosts, strict=True
    ):
        if kind == "controller":
            ip = await control.take(vm, island, transaction)
        else:
            ip = await subnets.allocate(slice_name, vm, transaction)
        vms.append(
            PlannedVm(
                id=vm,
                name=want.name,
                host=host,
                ip=ip,
                mac=names.mac(ip, vni),
                cpu=want.cpu,
                ram=want.ram,
                disk=want.disk,
                flavor=spec.flavor,
                image=image,
                dhcp=spec.dhcp,
                kind=kind,
                created_at=transaction.now,
                bandwidth=limit(kind, size),
            )
        )
    states = dict.fromkeys(ids, "building")
    await transaction.execute(insert(tables.vm), _rows(slice_name, vms, states, {}))
    return tuple(vms)


async def adopt(
    slice_name: str,
    vms: Sequence[PlannedVm],
    states: Mapping[str, str],
    snapshots: Mapping[str, Sequence[str]],
    transaction: Transaction,
) -> None:
    """Make the rows of VMs that are on their hosts already, and claim what they hold.

    Raises `Refused`: `vm_exists`, `invalid_state` (an address is somebody else's).
    """
    if not vms:
        return
    await _refuse_known(slice_name, [vm.name for vm in vms], transaction)
    for vm in vms:
        if vm.kind == "controller":
            await control.claim(vm.ip, vm.id, transaction)
        else:
            await subnets.claim_address(slice_name, vm.ip, vm.id, transaction)
    await claims.adopt(map(_claim, vms), transaction)
    await transaction.execute(insert(tables.vm), _rows(slice_name, vms, states, snapshots))


def _rows(
    slice_name: str,
    vms: Iterable[PlannedVm],
    states: Mapping[str, str],
    snapshots: Mapping[str, Sequence[str]],
) -> list[dict[str, object]]:
    return [
        {
            "id": vm.id,
            "slice": slice_name,
            "name": vm.name,
            "kind": vm.kind,
            "state": states[vm.id],
            "ip": vm.ip,
            "mac": vm.mac,
            "cpu": vm.cpu,
            "ram": vm.ram,
            "disk": vm.disk,
            "bandwidth": vm.bandwidth,
            "flavor": vm.flavor,
            "image": _image_row(vm.image),
            "image_checksum": vm.image.checksum,
            "host": vm.host,
            "dhcp": vm.dhcp,
            "snapshots": list(snapshots.get(vm.id, ())),
            "created_at": vm.created_at,
        }
        for vm in vms
    ]


async def planned(slice_name: str, transaction: Transaction) -> tuple[PlannedVm, ...]:
    """Return the slice's VMs that hold anything, as they were decided."""
    rows = await transaction.all(
        select(tables.vm)
        .where(tables.vm.c.slice == slice_name, tables.vm.c.host.is_not(None))
        .order_by(tables.vm.c.id)
    )
    return tuple(
        PlannedVm(
            id=row.id,
            name=row.name,
            host=row.host,
            ip=row.ip,
            mac=row.mac,
            cpu=row.cpu,
            ram=row.ram,
            disk=row.disk,
            flavor=row.flavor,
            image=Image(**row.image),
            dhcp=row.dhcp,
            kind=row.kind,
            created_at=row.created_at,
            bandwidth=row.bandwidth,
        )
        for row in rows
    )


async def set_state(vms: Iterable[str], state: str, transaction: Transaction) -> None:
    """Set the VMs' state."""
    await transaction.execute(
        update(tables.vm).where(tables.vm.c.id.in_(list(vms))).values(state=state)
    )


async def observe(
    vms: Sequence[str], seen: Sequence[Mapping[str, Any] | None], transaction: Transaction
) -> None:
    """Set the states of *vms* to what their steps, in the same order, have *seen*."""
    for vm, value in zip(vms, seen, strict=True):
        assert value is not None, "a step that changes a VM's power tells its state"
        await set_state([vm], value["state"], transaction)


async def release(vms: Iterable[PlannedVm], transaction: Transaction) -> None:
    """Give back what `choose` claimed for *vms*; their rows are the caller's business."""
    held = list(vms)
    for vm in held:
        if vm.kind == "controller":
            await control.give_back(vm.ip, transaction)
        else:
            await subnets.release_address(vm.ip, transaction)
    await claims.free(map(_claim, held), transaction)


def _claim(vm: PlannedVm) -> claims.Claim:
    return claims.Claim(host=vm.host, cpu=vm.cpu, ram=vm.ram, disk=vm.disk)


def _image_row(image: Image) -> dict[str, object]:
    return asdict(image)


async def _refuse_known(slice_name: str, called: Sequence[str], transaction: Transaction) -> None:
    known = await transaction.scalar(
        select(tables.vm.c.name).where(
            tables.vm.c.slice == slice_name,
            tables.vm.c.name.in_(called),
            tables.vm.c.state != "failed",
        )
    )
    if known is not None:
        raise Refused("vm_exists", f"the slice {slice_name} has a VM called {known}")


async def _size(spec: VmSpec, transaction: Transaction) -> Size:
    if spec.flavor is None:
        assert spec.cpu is not None
        assert spec.ram is not None
        assert spec.disk is not None
        return Size(cpu=spec.cpu, ram=spec.ram, disk=spec.disk, bandwidth=spec.bandwidth)
    size = await flavor_size(spec.flavor, transaction)
    return size if spec.bandwidth is None else replace(size, bandwidth=spec.bandwidth)


def limit(kind: str, size: Size) -> int | None:
    """Return what a VM of that *kind* may send and get, in Mbit/s: a controller has no limit.

    What switches ask it is limited on their side, and its link is on no slice's bridge.
    """
    return None if kind == "controller" else size.bandwidth


async def flavor_size(name: str, transaction: Transaction) -> Size:
    """Return the size that is called *name*. Raises `Refused` (`flavor_not_found`)."""
    row = await transaction.one(
        select(tables.flavor)
        .where(tables.flavor.c.name == name, ~tables.flavor.c.deleted)
        # Shared with other VMs; a deletion waits, and then finds the VM that is decided here.
        .with_for_update(read=True)
    )
    if row is None:
        raise Refused("flavor_not_found", f"no flavor is called {name}")
    return Size(cpu=row.cpu, ram=row.ram, disk=row.disk, bandwidth=row.bandwidth)


async def _image(name: str, disk: int, transaction: Transaction) -> Image:
    row = await transaction.one(select(tables.image).where(tables.image.c.name == name))
    if row is None:
        raise Refused(
            "image_not_found", f"no image is called {name}: add it to the image store and import it"
        )
    if row.virtual_size > disk << 30:
        raise Refused(
            "invalid_state",
            f"the image {name} needs a disk of {-(-row.virtual_size // (1 << 30))} GiB, not {disk}",
        )
    return Image(**row._mapping)
