"""Make the first release's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "daemon",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("heartbeat_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_daemon")),
    )
    op.create_table(
        "console",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("vm", sa.String(length=36), nullable=False),
        sa.Column("slice", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=6), nullable=False),
        sa.Column("view_only", sa.Boolean(), nullable=False),
        sa.Column("issued_to", sa.String(length=63), nullable=False),
        sa.Column("follows", sa.String(length=36), nullable=True),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("opened_at", MOMENT, nullable=True),
        sa.Column("opened_from", sa.Text(), nullable=True),
        sa.Column("seen_at", MOMENT, nullable=True),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.Column("revoked", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.CheckConstraint("kind IN ('vnc', 'serial')", name=op.f("ck_console_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console")),
        sa.UniqueConstraint("digest", name=op.f("uq_console_digest")),
    )
    with op.batch_alter_table("console", schema=None) as batch_op:
        batch_op.create_index("ix_console_expires_at", ["expires_at"], unique=False)
        batch_op.create_index(
            "ix_console_open",
            ["vm"],
            unique=False,
            postgresql_where=sa.text("opened_at IS NOT NULL AND closed_at IS NULL"),
            sqlite_where=sa.text("opened_at IS NOT NULL AND closed_at IS NULL"),
        )

    op.create_table(
        "flavor",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("cpu", sa.Integer(), nullable=False),
        sa.Column("ram", sa.Integer(), nullable=False),
        sa.Column("disk", sa.Integer(), nullable=False),
        sa.Column("bandwidth", sa.Integer(), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_flavor")),
    )
    op.create_table(
        "host",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("island", sa.String(length=63), nullable=False),
        sa.Column("configured", sa.Boolean(), nullable=False),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("cpu_total", sa.Integer(), nullable=False),
        sa.Column("ram_total", sa.Integer(), nullable=False),
        sa.Column("disk_total", sa.Integer(), nullable=False),
        sa.Column("cpu_limit", sa.Integer(), nullable=False),
        sa.Column("ram_limit", sa.Integer(), nullable=False),
        sa.Column("disk_limit", sa.Integer(), nullable=False),
        sa.Column("cpu_used", sa.Integer(), nullable=False),
        sa.Column("ram_used", sa.Integer(), nullable=False),
        sa.Column("disk_used", sa.Integer(), nullable=False),
        sa.CheckConstraint("cpu_used BETWEEN 0 AND cpu_limit", name=op.f("ck_host_cpu")),
        sa.CheckConstraint("disk_used BETWEEN 0 AND disk_limit", name=op.f("ck_host_disk")),
        sa.CheckConstraint("ram_used BETWEEN 0 AND ram_limit", name=op.f("ck_host_ram")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_host")),
    )
    op.create_table(
        "host_image",
        sa.Column("host", sa.String(length=63), nullable=False),
        sa.Column("checksum", sa.String(length=128), nullable=False),
        sa.Column("unused_since", MOMENT, nullable=True),
        sa.Column("unmarked_since", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name=op.f("fk_host_image_host_host")),
        sa.PrimaryKeyConstraint("host", "checksum", name=op.f("pk_host_image")),
    )
    op.create_table(
        "image",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(length=128), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("virtual_size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_image")),
    )
    op.create_table(
        "network",
        sa.Column("cidr", sa.String(length=18), nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("island", sa.String(length=63), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("prefix", sa.Integer(), nullable=False),
        sa.Column("gateway", sa.String(length=15), nullable=True),
        sa.CheckConstraint("first <= last", name=op.f("ck_network_range")),
        sa.CheckConstraint("type IN (0, 1, 2)", name=op.f("ck_network_type")),
        sa.PrimaryKeyConstraint("cidr", name=op.f("pk_network")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("message_id", sa.String(length=128), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("slice", sa.String(length=63), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("published_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index(
            "ix_outbox_letter",
            ["id"],
            unique=False,
            postgresql_where=sa.text("exchange = 'ccf.dead'"),
            sqlite_where=sa.text("exchange = 'ccf.dead'"),
        )
        batch_op.create_index(
            "ix_outbox_unpublished",
            ["id"],
            unique=False,
            postgresql_where=sa.text("published_at IS NULL"),
            sqlite_where=sa.text("published_at IS NULL"),
        )

    op.create_table(
        "pool",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool")),
    )
    op.create_table(
        "request",
        sa.Column("seq", SERIAL, autoincrement=True, nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("unfinished", sa.Boolean(), nullable=False),
        sa.Column("body", JSON, nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("reply_to", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("workflow_id", sa.String(length=36), nullable=False),
        sa.Column("parent", sa.String(length=36), nullable=True),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("plan", JSON, nullable=True),
        sa.Column("steps", JSON, nullable=True),
        sa.Column("terminal", JSON, nullable=True),
        sa.Column("terminal_message_id", sa.String(length=36), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'undoing', 'stuck', 'succeeded', 'failed')",
            name=op.f("ck_request_state"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint(
            "terminal IS NOT NULL OR state IN ('queued', 'running', 'undoing')",
            name=op.f("ck_request_ends"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint(
            "unfinished = (state IN ('queued', 'running', 'undoing', 'stuck'))",
            name=op.f("ck_request_unfinished"),
        ).ddl_if(dialect="sqlite"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_request")),
        sa.UniqueConstraint("request_id", name=op.f("uq_request_request_id")),
        postgresql_with={"fillfactor": "25"},
    )
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.create_index(
            "ix_request_child",
            ["parent"],
            unique=False,
            postgresql_where=sa.text("parent IS NOT NULL"),
            sqlite_where=sa.text("parent IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_request_unanswered",
            ["seq"],
            unique=False,
            postgresql_where=sa.text("terminal IS NULL"),
            sqlite_where=sa.text("terminal IS NULL"),
        )
        batch_op.create_index(
            "ix_request_unfinished_key",
            ["key", "seq"],
            unique=False,
            postgresql_where=sa.text("unfinished"),
            sqlite_where=sa.text("unfinished = 1"),
        )

    op.create_table(
        "workflow",
        sa.Column("seq", SERIAL, autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("owner", sa.String(length=36), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("journal", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["seq"], ["request.seq"], name=op.f("fk_workflow_seq"), ondelete="CASCADE"
        ).ddl_if(dialect="sqlite"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_workflow")),
        postgresql_with={"fillfactor": "10"},
    )
    with op.batch_alter_table("workflow", schema=None) as batch_op:
        batch_op.create_index(
            "uq_workflow_key",
            ["key"],
            unique=True,
            postgresql_where=sa.text("key IS NOT NULL"),
            sqlite_where=sa.text("key IS NOT NULL"),
        )

    op.create_table(
        "slice",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("island", sa.String(length=63), nullable=False),
        sa.Column("vni", sa.Integer(), nullable=False),
        sa.Column("dhcp", sa.Boolean(), nullable=False),
        sa.Column("gateway", JSON, nullable=True),
        sa.Column("controller", JSON, nullable=True),
        sa.Column("monitoring", JSON, nullable=True),
        sa.Column("controller_connected", sa.Boolean(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("ssh_keys", JSON, nullable=False),
        sa.Column("ssh_public_key", sa.Text(), nullable=True),
        sa.Column("ssh_sealed_key", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("expiry_announced", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "state IN ('creating', 'active', 'stopped', 'deleting')", name=op.f("ck_slice_state")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_slice")),
        sa.UniqueConstraint("vni", name=op.f("uq_slice_vni")),
    )
    with op.batch_alter_table("slice", schema=None) as batch_op:
        batch_op.create_index("ix_slice_expires_at", ["expires_at"], unique=False)

    op.create_table(
        "block",
        sa.Column("network", sa.String(length=18), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("is_full", sa.Boolean(), nullable=False),
        sa.CheckConstraint("size IN (8, 16, 32, 64)", name=op.f("ck_block_size")),
        sa.CheckConstraint("used > 0", name=op.f("ck_block_not_empty")),
        sa.ForeignKeyConstraint(
            ["network"], ["network.cidr"], name=op.f("fk_block_network"), onupdate="CASCADE"
        ),
        sa.PrimaryKeyConstraint("network", "number", name=op.f("pk_block")),
        sa.UniqueConstraint("network", "number", "size", name=op.f("uq_block_network_number_size")),
    )
    with op.batch_alter_table("block", schema=None) as batch_op:
        batch_op.create_index(
            "ix_block_open",
            ["network", "size", "number"],
            unique=False,
            postgresql_where=sa.text("NOT is_full"),
            sqlite_where=sa.text("NOT is_full"),
        )

    op.create_table(
        "pool_item",
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(
            ["pool"], ["pool.name"], name=op.f("fk_pool_item_pool"), onupdate="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pool", "number", name=op.f("pk_pool_item")),
    )
    with op.batch_alter_table("pool_item", schema=None) as batch_op:
        batch_op.create_index(
            "ix_pool_item_free",
            ["pool", "number"],
            unique=False,
            postgresql_where=sa.text("owner IS NULL"),
            sqlite_where=sa.text("owner IS NULL"),
        )

    op.create_table(
        "subnet",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("owner", sa.String(length=63), nullable=False),
        sa.Column("network", sa.String(length=18), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("timeout", sa.Integer(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "state IN ('reserved', 'confirmed', 'expired')", name=op.f("ck_subnet_state")
        ),
        sa.CheckConstraint("size IN (8, 16, 32, 64)", name=op.f("ck_subnet_size")),
        sa.CheckConstraint("place >= 0 AND place < 64 / size", name=op.f("ck_subnet_place")),
        sa.CheckConstraint("first = block * 64 + place * size", name=op.f("ck_subnet_first")),
        sa.ForeignKeyConstraint(
            ["network"], ["network.cidr"], name=op.f("fk_subnet_network"), onupdate="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subnet")),
        sa.UniqueConstraint("owner", name=op.f("uq_subnet_owner")),
    )
    with op.batch_alter_table("subnet", schema=None) as batch_op:
        batch_op.create_index(
            "ix_subnet_due",
            ["expires_at"],
            unique=False,
            postgresql_where=sa.text("state = 'reserved'"),
            sqlite_where=sa.text("state = 'reserved'"),
        )
        batch_op.create_index(
            "uq_subnet_place",
            ["network", "block", "place"],
            unique=True,
            postgresql_where=sa.text("state <> 'expired'"),
            sqlite_where=sa.text("state <> 'expired'"),
        )

    op.create_table(
        "vm",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("slice", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("ip", sa.String(length=15), nullable=True),
        sa.Column("mac", sa.String(length=17), nullable=True),
        sa.Column("cpu", sa.Integer(), nullable=True),
        sa.Column("ram", sa.Integer(), nullable=True),
        sa.Column("disk", sa.Integer(), nullable=True),
        sa.Column("bandwidth", sa.Integer(), nullable=True),
        sa.Column("flavor", sa.String(length=63), nullable=True),
        sa.Column("image", JSON, nullable=True),
        sa.Column("image_checksum", sa.String(length=128), nullable=True),
        sa.Column("host", sa.String(length=63), nullable=True),
        sa.Column("dhcp", sa.Boolean(), nullable=False),
        sa.Column("snapshots", JSON, nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("kind IN ('slice', 'controller')", name=op.f("ck_vm_kind")),
        sa.CheckConstraint(
            "state IN ('building', 'running', 'paused', 'stopping', 'shutoff', 'crashed', 'failed', 'deleting')",
            name=op.f("ck_vm_state"),
        ),
        sa.ForeignKeyConstraint(["host"], ["host.name"], name=op.f("fk_vm_host")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vm")),
    )
    with op.batch_alter_table("vm", schema=None) as batch_op:
        batch_op.create_index("ix_vm_image_checksum_host", ["image_checksum", "host"], unique=False)
        batch_op.create_index(
            "uq_vm_name",
            ["slice", "name"],
            unique=True,
            postgresql_where=sa.text("state <> 'failed'"),
            sqlite_where=sa.text("state <> 'failed'"),
        )

    op.create_table(
        "address",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("subnet", SERIAL, nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["subnet"], ["subnet.id"], name=op.f("fk_address_subnet")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_address")),
    )
    with op.batch_alter_table("address", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_address_subnet"), ["subnet"], unique=False)
