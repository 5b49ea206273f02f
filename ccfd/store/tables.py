"""What the database holds: one table a noun, its rules as constraints.

The database is the only truth; uniqueness and ranges are constraints here and not checks in
code. `migrations/` makes these tables; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both databases (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; refuse a moment without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Json = JSON(none_as_null=True)
# SQLite gives out row numbers by itself only for a column of type INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _on_sqlite(name: str, rule: str) -> CheckConstraint:
    return CheckConstraint(rule, name=name).ddl_if(dialect="sqlite")


request = Table(
    "request",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("request_id", String(128), nullable=False, unique=True),
    Column("type", String(100), nullable=False),
    Column("key", String(200), nullable=False),
    Column("state", String(10), nullable=False),
    Column("unfinished", Boolean, nullable=False),
    Column("body", Json),
    Column("correlation_id", Text, nullable=False),
    Column("reply_to", Text),
    Column("traceparent", Text),
    Column("workflow_id", String(36), nullable=False),
    Column("parent", String(36)),
    Column("cancelled", Boolean, nullable=False, default=False, server_default=text("false")),
    Column("plan", Json),
    Column("steps", Json),
    Column("terminal", Json),
    Column("terminal_message_id", String(36), nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    # Not on PostgreSQL, which reads them anew for each statement: a sixth of a workflow's cost.
    _on_sqlite(
        "state", "state IN ('queued', 'running', 'undoing', 'stuck', 'succeeded', 'failed')"
    ),
    # Clean-up that is taken up again after the end has its terminal result already.
    _on_sqlite("ends", "terminal IS NOT NULL OR state IN ('queued', 'running', 'undoing')"),
    _on_sqlite("unfinished", "unfinished = (state IN ('queued', 'running', 'undoing', 'stuck'))"),
    # Room on each page for what is decided.
    postgresql_with={"fillfactor": "25"},
)
# What they are about does not change when a request begins, or every index would have to name its
# new version. What is looked up by key must not match an index of all requests in their order:
# where statistics say that few are unfinished, PostgreSQL would go through that one.
UNFINISHED = "unfinished"
UNANSWERED = "terminal IS NULL"
CHILD = "parent IS NOT NULL"
Index(
    "ix_request_unfinished_key",
    request.c.key,
    request.c.seq,
    postgresql_where=text(UNFINISHED),
    sqlite_where=text(f"{UNFINISHED} = 1"),
)
Index(
    "ix_request_unanswered",
    request.c.seq,
    postgresql_where=text(UNANSWERED),
    sqlite_where=text(UNANSWERED),
)
Index(
    "ix_request_child",
    request.c.parent,
    postgresql_where=text(CHILD),
    sqlite_where=text(CHILD),
)

# Written once a stage, so apart from the request that it carries out, and with room on each page
# for its next version. Once it has ended it has neither owner nor key; until then nothing else has
# its key.
workflow = Table(
    "workflow",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=False),
    Column("key", String(200)),
    Column("owner", String(36)),
    Column("epoch", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False, default=False, server_default=text("false")),
    Column("journal", Text, nullable=False),
    # As above: on PostgreSQL it would be looked up for each that begins.
    ForeignKeyConstraint(["seq"], ["request.seq"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    postgresql_with={"fillfactor": "10"},
)
RUNNING = "key IS NOT NULL"
Index(
    "uq_workflow_key",
    workflow.c.key,
    unique=True,
    postgresql_where=text(RUNNING),
    sqlite_where=text(RUNNING),
)

daemon = Table(
    "daemon",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("heartbeat_at", UtcTime, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("message_id", String(128), nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("correlation_id", Text),
    Column("content_type", Text),
    Column("headers", Json, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("slice", String(63)),
    Column("created_at", UtcTime, nullable=False),
    Column("published_at", UtcTime),
)
UNPUBLISHED = "published_at IS NULL"
Index(
    "ix_outbox_unpublished",
    outbox.c.id,
    postgresql_where=text(UNPUBLISHED),
    sqlite_where=text(UNPUBLISHED),
)
LETTER = "exchange = 'ccf.dead'"
Index(
    "ix_outbox_letter",
    outbox.c.id,
    postgresql_where=text(LETTER),
    sqlite_where=text(LETTER),
)

network = Table(
    "network",
    metadata,
    Column("cidr", String(18), primary_key=True),
    Column("type", Integer, nullable=False),
    Column("island", String(63), nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("prefix", Integer, nullable=False),
    Column("gateway", String(15)),
    CheckConstraint("type IN (0, 1, 2)", name="type"),
    CheckConstraint("first <= last", name="range"),
)

pool = Table(
    "pool",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("first", BigInteger, nullable=False),
    Column("next", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
)

pool_item = Table(
    "pool_item",
    metadata,
    Column("pool", ForeignKey("pool.name", onupdate="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String(200)),
)
Index(
    "ix_pool_item_free",
    pool_item.c.pool,
    pool_item.c.number,
    postgresql_where=text("owner IS NULL"),
    sqlite_where=text("owner IS NULL"),
)

block = Table(
    "block",
    metadata,
    Column("network", ForeignKey("network.cidr", onupdate="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("size", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("is_full", Boolean, nullable=False),
    UniqueConstraint("network", "number", "size"),
    CheckConstraint("size IN (8, 16, 32, 64)", name="size"),
    CheckConstraint("used > 0", name="not_empty"),
)
Index(
    "ix_block_open",
    block.c.network,
    block.c.size,
    block.c.number,
    postgresql_where=text("NOT is_full"),
    sqlite_where=text("NOT is_full"),
)

subnet = Table(
    "subnet",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("owner", String(63), nullable=False, unique=True),
    Column("network", ForeignKey("network.cidr", onupdate="CASCADE"), nullable=False),
    Column("block", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("state", String(9), nullable=False),
    Column("timeout", Integer, nullable=False),
    Column("expires_at", UtcTime),
    CheckConstraint("state IN ('reserved', 'confirmed', 'expired')", name="state"),
    CheckConstraint("size IN (8, 16, 32, 64)", name="size"),
    CheckConstraint("place >= 0 AND place < 64 / size", name="place"),
    CheckConstraint("first = block * 64 + place * size", name="first"),
)
HELD = "state <> 'expired'"
Index(
    "uq_subnet_place",
    subnet.c.network,
    subnet.c.block,
    subnet.c.place,
    unique=True,
    postgresql_where=text(HELD),
    sqlite_where=text(HELD),
)
Index(
    "ix_subnet_due",
    subnet.c.expires_at,
    postgresql_where=text("state = 'reserved'"),
    sqlite_where=text("state = 'reserved'"),
)

address = Table(
    "address",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("subnet", ForeignKey("subnet.id"), nullable=False, index=True),
    Column("owner", String(200), nullable=False),
)

slices = Table(
    "slice",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("island", String(63), nullable=False),
    Column("vni", Integer, nullable=False, unique=True),
    Column("dhcp", Boolean, nullable=False),
    Column("gateway", Json),
    Column("controller", Json),
    Column("monitoring", Json),
    Column("controller_connected", Boolean),
    Column("description", Text),
    Column("project", Text),
    Column("user", Text),
    Column("ssh_keys", Json, nullable=False),
    Column("ssh_public_key", Text),
    Column("ssh_sealed_key", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("expiry_announced", Boolean, nullable=False, default=False),
    CheckConstraint("state IN ('creating', 'active', 'stopped', 'deleting')", name="state"),
)
Index("ix_slice_expires_at", slices.c.expires_at)

vm = Table(
    "vm",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("slice", String(63), nullable=False),
    Column("name", String(63), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("state", String(8), nullable=False),
    Column("ip", String(15)),
    Column("mac", String(17)),
    Column("cpu", Integer),
    Column("ram", Integer),
    Column("disk", Integer),
    Column("bandwidth", Integer),
    Column("flavor", String(63)),
    Column("image", Json),
    Column("image_checksum", String(128)),
    Column("host", ForeignKey("host.name")),
    Column("dhcp", Boolean, nullable=False),
    Column("snapshots", Json, nullable=False, default=list),
    Column("error", Json),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("kind IN ('slice', 'controller')", name="kind"),
    CheckConstraint(
        "state IN ('building', 'running', 'paused', 'stopping', 'shutoff', 'crashed', 'failed',"
        " 'deleting')",
        name="state",
    ),
)
Index("ix_vm_image_checksum_host", vm.c.image_checksum, vm.c.host)
LIVE = "state <> 'failed'"
Index(
    "uq_vm_name",
    vm.c.slice,
    vm.c.name,
    unique=True,
    postgresql_where=text(LIVE),
    sqlite_where=text(LIVE),
)

host = Table(
    "host",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("island", String(63), nullable=False),
    Column("configured", Boolean, nullable=False),
    Column("up", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("cpu_total", Integer, nullable=False),
    Column("ram_total", Integer, nullable=False),
    Column("disk_total", Integer, nullable=False),
    Column("cpu_limit", Integer, nullable=False),
    Column("ram_limit", Integer, nullable=False),
    Column("disk_limit", Integer, nullable=False),
    Column("cpu_used", Integer, nullable=False),
    Column("ram_used", Integer, nullable=False),
    Column("disk_used", Integer, nullable=False),
    CheckConstraint("cpu_used BETWEEN 0 AND cpu_limit", name="cpu"),
    CheckConstraint("ram_used BETWEEN 0 AND ram_limit", name="ram"),
    CheckConstraint("disk_used BETWEEN 0 AND disk_limit", name="disk"),
)

flavor = Table(
    "flavor",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("cpu", Integer, nullable=False),
    Column("ram", Integer, nullable=False),
    Column("disk", Integer, nullable=False),
    Column("bandwidth", Integer),
    Column("deleted", Boolean, nullable=False),
)

# Base images as last seen on hosts: whole where `unmarked_since` is NULL.
host_image = Table(
    "host_image",
    metadata,
    Column("host", ForeignKey("host.name"), primary_key=True),
    Column("checksum", String(128), primary_key=True),
    Column("unused_since", UtcTime),
    Column("unmarked_since", UtcTime),
)

image = Table(
    "image",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("id", Text, nullable=False),
    Column("checksum", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
)

# A ticket that was given out, then the session that it opened. A ticket is known by its digest.
console = Table(
    "console",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("vm", String(36), nullable=False),
    Column("slice", String(63), nullable=False),
    Column("kind", String(6), nullable=False),
    Column("view_only", Boolean, nullable=False),
    Column("issued_to", String(63), nullable=False),
    # The session that this ticket takes up again, should it be lost.
    Column("follows", String(36)),
    Column("expires_at", UtcTime, nullable=False),
    Column("opened_at", UtcTime),
    Column("opened_from", Text),
    Column("seen_at", UtcTime),
    Column("closed_at", UtcTime),
    Column("revoked", Boolean, nullable=False, default=False, server_default=text("false")),
    CheckConstraint("kind IN ('vnc', 'serial')", name="kind"),
)
Index("ix_console_expires_at", console.c.expires_at)
OPEN_CONSOLE = "opened_at IS NOT NULL AND closed_at IS NULL"
Index(
    "ix_console_open",
    console.c.vm,
    postgresql_where=text(OPEN_CONSOLE),
    sqlite_where=text(OPEN_CONSOLE),
)
