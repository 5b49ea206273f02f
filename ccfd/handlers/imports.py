"""What the settings say, put into the database at every start."""

from collections.abc import Iterable

from sqlalchemy import insert, select, update

from ccfd.handlers.slice_events import VNI_POOL
from ccfd.ipam import control, networks, pools, subnets
from ccfd.model.vm import Image
from ccfd.settings import Settings
from ccfd.store import tables
from ccfd.store.database import Transaction


async def import_settings(settings: Settings, transaction: Transaction) -> None:
    """Import networks, the range of VNIs, hosts, and flavors whose names were never seen."""
    # What expired while nobody ran holds no network.
    while await subnets.expire(transaction):
        pass
    await networks.import_all(settings.network, transaction, control.kept(settings))
    await pools.define(VNI_POOL, *settings.slices.vni, transaction)
    await _hosts(settings, transaction)
    known = {row.name for row in await transaction.all(select(tables.flavor.c.name))}
    for flavor in settings.flavor:
        # A deleted flavor's row remains, so that the next start does not bring it back.
        if flavor.name not in known:
            await transaction.execute(
                insert(tables.flavor).values(**flavor.model_dump(), deleted=False)
            )


async def _hosts(settings: Settings, transaction: Transaction) -> None:
    host = tables.host
    known = {row.name for row in await transaction.all(select(host.c.name))}
    named = [one.name for one in settings.host]
    await transaction.execute(
        update(host).where(host.c.name.not_in(named)).values(configured=False, up=False)
    )
    for one in settings.host:
        if one.name in known:
            await transaction.execute(
                update(host)
                .where(host.c.name == one.name)
                .values(island=one.island, configured=True)
            )
            continue
        sizes = ("cpu", "ram", "disk")
        await transaction.execute(
            insert(host).values(
                name=one.name,
                island=one.island,
                configured=True,
                up=False,
                draining=False,
                **{f"{size}_{what}": 0 for size in sizes for what in ("total", "limit", "used")},
            )
        )


async def import_images(
    images: Iterable[Image], transaction: Transaction, *, only: str | None = None
) -> dict[str, list[str]]:
    """Make the image list equal to the store's; return the names that came, changed and went.

    With *only*, no other name is touched.
    """
    table = tables.image
    known = {
        row.name: row for row in await transaction.all(select(table)) if only in (None, row.name)
    }
    found = {image.name: image for image in images}
    changes: dict[str, list[str]] = {"imported": [], "updated": [], "removed": []}
    for name, image in sorted(found.items()):
        values = {
            "id": image.id,
            "checksum": image.checksum,
            "size": image.size,
            "virtual_size": image.virtual_size,
        }
        if name not in known:
            await transaction.execute(insert(table).values(name=name, **values))
            changes["imported"].append(name)
        elif (known[name].id, known[name].checksum) != (image.id, image.checksum):
            await transaction.execute(update(table).where(table.c.name == name).values(**values))
            changes["updated"].append(name)
    for name in sorted(set(known) - set(found)):
        await transaction.execute(table.delete().where(table.c.name == name))
        changes["removed"].append(name)
    return changes
