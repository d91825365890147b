"""Initial migration of the schema `ops`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_initial_ops"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema ops")
    op.execute("comment on schema ops is 'Sources, the ledger of runs, and functions that SELECT files share'")
    op.execute(sa.schema.CreateSequence(sa.Sequence("publish_seq", schema="ops")))
    op.create_table(
        "objects",
        sa.Column(
            "name", sa.Text(), nullable=False, comment="Name in SQL; for a function with the types of its arguments"
        ),
        sa.Column("kind", sa.Text(), nullable=False, comment="function, view, trigger or policy"),
        sa.Column("digest", sa.Text(), nullable=False, comment="sha256 of the statements that created it, lower hex"),
        sa.Column(
            "created_order",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Order of creation",
        ),
        sa.CheckConstraint("kind in ('function', 'view', 'trigger', 'policy')", name=op.f("objects_kind_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("objects_pkey")),
        schema="ops",
        comment="One row per function, view, trigger or policy; one is created again when its declared text changes",
    )
    op.create_table(
        "rate_limits",
        sa.Column(
            "host_key",
            sa.UUID(),
            sa.Computed("md5(host)::uuid", persisted=True),
            nullable=False,
            comment="md5 of host, which may be long",
        ),
        sa.Column("host", sa.Text(), nullable=False, comment="Host and port"),
        sa.Column(
            "next_request_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("'epoch'"),
            nullable=False,
            comment="No request is sent before",
        ),
        sa.Column(
            "blocked_until",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("'epoch'"),
            nullable=False,
            comment="End of the wait that the host asked for (Retry-After)",
        ),
        sa.PrimaryKeyConstraint("host_key", name=op.f("rate_limits_pkey")),
        schema="ops",
        comment="One row per host: when the next request of any run may be sent",
    )
    op.create_table(
        "role_users",
        sa.Column("role_name", sa.Text(), nullable=False, comment="Login, a member of atlas_analyst"),
        sa.Column("user_id", sa.UUID(), nullable=False, comment="Person who logs in with it"),
        sa.PrimaryKeyConstraint("role_name", name=op.f("role_users_pkey")),
        schema="ops",
        comment="One row per login of an analyst: which person it is",
    )
    op.create_table(
        "sources",
        sa.Column("source_id", sa.UUID(), nullable=False, comment="ops.key(name)"),
        sa.Column("name", sa.Text(), nullable=False, comment="domain/source"),
        sa.Column("kind", sa.Text(), nullable=False, comment="How the source is read: http, folder"),
        sa.Column("base_url", sa.Text(), nullable=True, comment="Default address, without secrets"),
        sa.Column(
            "is_active",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="Whether a connector declares it; set when the connector runs",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.CheckConstraint("length(base_url) <= 500", name=op.f("sources_base_url_check")),
        sa.CheckConstraint("length(name) <= 255", name=op.f("sources_name_check")),
        sa.PrimaryKeyConstraint("source_id", name=op.f("sources_pkey")),
        sa.UniqueConstraint(
            "name",
            name=op.f("sources_name_key"),
            postgresql_nulls_not_distinct=None,
        ),
        schema="ops",
        comment="One row per source, written from its connector",
    )
    op.create_table(
        "sql",
        sa.Column("digest", sa.Text(), nullable=False, comment="sha256 of the text, lower hex"),
        sa.Column("path", sa.Text(), nullable=False, comment="Path of the file, below sql/"),
        sa.Column("text", sa.Text(), nullable=False, comment="Text of the SELECT"),
        sa.PrimaryKeyConstraint("digest", name=op.f("sql_pkey")),
        schema="ops",
        comment="One row per text of a SELECT file that a run applied",
    )
    op.create_table(
        "table_digests",
        sa.Column("table_name", sa.Text(), nullable=False, comment="schema.table"),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="Number of rows"),
        sa.Column(
            "digest",
            sa.Text(),
            nullable=False,
            comment="Sum of the hashes of its rows, without audit columns; in hex",
        ),
        sa.PrimaryKeyConstraint("table_name", name=op.f("table_digests_pkey")),
        schema="ops",
        comment="One row per table of a domain: its contents in numbers, updated by each transform",
    )
    op.create_table(
        "fetch_runs",
        sa.Column(
            "fetch_run_id",
            sa.UUID(),
            server_default=sa.text("uuidv7()"),
            nullable=False,
            comment="UUID v7: grows with time",
        ),
        sa.Column(
            "publish_seq",
            sa.BigInteger(),
            nullable=True,
            comment="Order in which runs were published; null = not published",
        ),
        sa.Column("source_id", sa.UUID(), nullable=True, comment="Source; null = a whole domain"),
        sa.Column(
            "stream", sa.Text(), nullable=False, comment="Stream; a source or a domain for a run of several streams"
        ),
        sa.Column("kind", sa.Text(), nullable=False, comment="Kind of run"),
        sa.Column("asset_key", sa.Text(), nullable=False, comment="Dagster asset of the run"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Partition: a day, or all"),
        sa.Column("dagster_run_id", sa.Text(), nullable=True, comment="Dagster run that executed it; null = none did"),
        sa.Column("status", sa.Text(), nullable=False, comment="Status"),
        sa.Column(
            "started_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the run was opened, before it read anything",
        ),
        sa.Column(
            "ended_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the run was closed, in the transaction that published its data",
        ),
        sa.Column(
            "fetched",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads received, or rows yielded by the SELECTs",
        ),
        sa.Column(
            "created", sa.BigInteger(), server_default=sa.text("0"), nullable=False, comment="Records or rows inserted"
        ),
        sa.Column(
            "updated", sa.BigInteger(), server_default=sa.text("0"), nullable=False, comment="Records or rows updated"
        ),
        sa.Column(
            "observed",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records of which only volatile fields changed",
        ),
        sa.Column(
            "unchanged",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records or rows that were equal already",
        ),
        sa.Column(
            "deleted",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records or rows deleted; not part of fetched",
        ),
        sa.Column(
            "quarantined",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads or rows that were quarantined",
        ),
        sa.Column(
            "pending",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Rows whose parent has not come yet; see staging.pending_rows",
        ),
        sa.Column(
            "duplicates",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads that are not the newest of their record; rows yielded twice, or with a taken key",
        ),
        sa.Column(
            "cursor_from",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Cursor at which the extraction started",
        ),
        sa.Column(
            "cursor_to",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Cursor at which the extraction ended",
        ),
        sa.Column("code_version", sa.Text(), nullable=False, comment="Digest of the connector or of the SELECT files"),
        sa.Column(
            "stats",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="Bytes, skipped records, counts per table, digests of SELECT files",
        ),
        sa.Column("error_text", sa.Text(), nullable=True, comment="Error of a failed run"),
        sa.CheckConstraint(
            "(ended_at is null) = (status in ('pending', 'in_progress'))", name=op.f("fetch_runs_ended_check")
        ),
        sa.CheckConstraint(
            "kind in ('land', 'transform', 'rebuild', 'prune', 'erase')", name=op.f("fetch_runs_kind_check")
        ),
        sa.CheckConstraint(
            "status in ('pending', 'in_progress', 'completed', 'failed', 'partial_success')",
            name=op.f("fetch_runs_status_check"),
        ),
        sa.CheckConstraint(
            "fetched = created + updated + observed + unchanged + quarantined + pending + duplicates",
            name=op.f("fetch_runs_conservation_check"),
        ),
        sa.CheckConstraint(
            "least(fetched, created, updated, observed, unchanged, deleted, quarantined, pending, duplicates) >= 0",
            name=op.f("fetch_runs_not_negative_check"),
        ),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("fetch_runs_source_id_fkey")),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("fetch_runs_pkey")),
        sa.UniqueConstraint("publish_seq", name=op.f("fetch_runs_publish_seq_key")),
        schema="ops",
        comment="The ledger: one row per run",
    )
    op.create_index(op.f("fetch_runs_dagster_run_id_idx"), "fetch_runs", ["dagster_run_id"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_source_id_idx"), "fetch_runs", ["source_id"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_started_at_idx"), "fetch_runs", ["started_at"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_status_idx"), "fetch_runs", ["status"], unique=False, schema="ops")
    op.create_index(
        op.f("fetch_runs_stream_kind_partition_key_publish_seq_idx"),
        "fetch_runs",
        ["stream", "kind", "partition_key", "publish_seq"],
        unique=False,
        schema="ops",
    )
    op.create_table(
        "schema_drift",
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, with its kind where it has several"),
        sa.Column(
            "path_key",
            sa.UUID(),
            sa.Computed("md5(path)::uuid", persisted=True),
            nullable=False,
            comment="md5 of path, which may be long",
        ),
        sa.Column(
            "path",
            sa.Text(),
            nullable=False,
            comment="modelVersions[*].files[*].sizeKB; *: any key; $: the payload",
        ),
        sa.Column(
            "type",
            sa.Text(),
            nullable=False,
            comment="JSON type; null: no value yet; unread: no SELECT reads the key",
        ),
        sa.Column("first_run", sa.UUID(), nullable=False, comment="Landing that received it first"),
        sa.Column("last_run", sa.UUID(), nullable=False, comment="Landing that received it last"),
        sa.Column(
            "payloads",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Inspected payloads that have the path with this type",
        ),
        sa.Column(
            "of_payloads",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Inspected payloads until last_run that have the object or array around it",
        ),
        sa.Column(
            "lacking",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Inspected payloads since, which have that and lack this",
        ),
        sa.Column(
            "share",
            sa.Numeric(),
            sa.Computed("round(least(payloads, of_payloads) / nullif(of_payloads, 0)::numeric, 4)", persisted=True),
            nullable=True,
            comment="payloads / of_payloads, at most 1",
        ),
        sa.Column(
            "payload_id", sa.UUID(), nullable=True, comment="First payload that contains it; may be deleted since"
        ),
        sa.CheckConstraint(
            "type in ('null', 'boolean', 'number', 'string', 'array', 'object', 'unread')",
            name=op.f("schema_drift_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["first_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("schema_drift_first_run_fkey")
        ),
        sa.ForeignKeyConstraint(["last_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("schema_drift_last_run_fkey")),
        sa.PrimaryKeyConstraint("stream", "path_key", "type", name=op.f("schema_drift_pkey")),
        schema="ops",
        comment="One row per stream, JSON path and type that SQL reads; and one per key that nothing reads",
    )


def downgrade() -> None:
    op.drop_table("schema_drift", schema="ops")
    op.drop_index(op.f("fetch_runs_stream_kind_partition_key_publish_seq_idx"), table_name="fetch_runs", schema="ops")
    op.drop_index(op.f("fetch_runs_status_idx"), table_name="fetch_runs", schema="ops")
    op.drop_index(op.f("fetch_runs_started_at_idx"), table_name="fetch_runs", schema="ops")
    op.drop_index(op.f("fetch_runs_source_id_idx"), table_name="fetch_runs", schema="ops")
    op.drop_index(op.f("fetch_runs_dagster_run_id_idx"), table_name="fetch_runs", schema="ops")
    op.drop_table("fetch_runs", schema="ops")
    op.drop_table("table_digests", schema="ops")
    op.drop_table("sql", schema="ops")
    op.drop_table("sources", schema="ops")
    op.drop_table("role_users", schema="ops")
    op.drop_table("rate_limits", schema="ops")
    op.drop_table("objects", schema="ops")
    op.execute(sa.schema.DropSequence(sa.Sequence("publish_seq", schema="ops")))
    op.execute("drop schema ops")
