"""Initial migration of the schema `staging`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_initial_staging"
down_revision = "2026_11_26_initial_ops"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema staging")
    op.execute(
        "comment on schema staging is 'Raw payloads as the sources sent them, their versions, and the quarantine'"
    )

    op.create_table(
        "arrivals",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing in progress or interrupted"),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="Order received"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id of the record"),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="sha256 of the bytes as received, without volatile fields",
        ),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the payload was received, by the database's clock",
        ),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("counters_digest", sa.LargeBinary(), nullable=True, comment="sha256 of the volatile fields"),
        sa.Column(
            "counters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The volatile fields of the payload",
        ),
        sa.Column(
            "paths",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Paths of the volatile fields in the payload",
        ),
        schema="staging",
        comment="Payloads of landings in progress, before they are published",
        prefixes=["unlogged"],
    )
    op.create_index(op.f("arrivals_fetch_run_id_idx"), "arrivals", ["fetch_run_id"], unique=False, schema="staging")
    op.create_table(
        "checkpoints",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing in progress or interrupted"),
        sa.Column(
            "progress",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Positions in its listings, and its counts",
        ),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("checkpoints_pkey")),
        schema="staging",
        comment="One row per landing that can be resumed",
        prefixes=["unlogged"],
    )
    op.create_table(
        "pending_rows",
        sa.Column("record_id", sa.UUID(), nullable=False, comment="Record that yields the pending row"),
        sa.Column("stream", sa.Text(), nullable=False, comment="Stream of the record"),
        sa.Column("table_name", sa.Text(), nullable=False, comment="Table of the other row"),
        sa.Column("key", sa.Text(), nullable=False, comment="Key of the other row"),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=False,
            comment="parent: until it exists; key, unique: until it goes; alias, identity: until it leads elsewhere",
        ),
        sa.Column(
            "rows",
            sa.BigInteger(),
            server_default=sa.text("1"),
            nullable=False,
            comment="How many rows of the record",
        ),
        schema="staging",
        comment="One row per record with pending rows and the row these depend on: a missing parent, or the owner of a key",
    )
    op.create_index(op.f("pending_rows_record_id_idx"), "pending_rows", ["record_id"], unique=False, schema="staging")
    op.create_index(
        op.f("pending_rows_key_idx"), "pending_rows", ["key"], unique=False, schema="staging", postgresql_using="hash"
    )
    op.create_table(
        "aliases",
        sa.Column("record_id", sa.UUID(), nullable=False, comment="Record that yields the row"),
        sa.Column("table_name", sa.Text(), nullable=False, comment="Table of the row"),
        sa.Column("lost_key", sa.Text(), nullable=False, comment="Key of the row, which is not written"),
        sa.Column(
            "kept_key", sa.Text(), nullable=False, comment="Key of the row that has the same identity and is written"
        ),
        schema="staging",
        comment="One row per row that another one of the same identity stands for; references to it lead to that one",
    )
    op.create_index(op.f("aliases_record_id_idx"), "aliases", ["record_id"], unique=False, schema="staging")
    op.create_index(
        op.f("aliases_lost_key_idx"), "aliases", ["lost_key"], unique=False, schema="staging", postgresql_using="hash"
    )
    op.create_table(
        "changed_rows",
        sa.Column(
            "change_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of the changes"
        ),
        sa.Column("table_name", sa.Text(), nullable=False, comment="Table of the row"),
        sa.Column("key", sa.Text(), nullable=False, comment="Key of the row"),
        sa.PrimaryKeyConstraint("change_id", name=op.f("changed_rows_pkey")),
        schema="staging",
        comment="One row per row that an application inserted, changed or deleted, until the next transform of the domain",
    )
    op.create_index(
        op.f("changed_rows_key_idx"), "changed_rows", ["key"], unique=False, schema="staging", postgresql_using="hash"
    )
    op.create_table(
        "rejects",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing in progress or interrupted"),
        sa.Column("place", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order received"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column(
            "granularity",
            sa.Text(),
            server_default=sa.text("'payload'"),
            nullable=False,
            comment="payload, or value: of a payload that lands",
        ),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="Place of the payload in the run"),
        sa.Column("bytes", sa.LargeBinary(), nullable=False, comment="The payload or the value exactly as received"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of bytes"),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the payload was received, by the database's clock",
        ),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="The source's own id, if it can be read"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Reason code"),
        sa.Column("detail", sa.Text(), nullable=False, comment="The reason in words"),
        sa.Column("path", sa.Text(), nullable=True, comment="JSON path of the invalid value"),
        sa.Column("byte_offset", sa.BigInteger(), nullable=True, comment="Byte at which the JSON syntax is wrong"),
        sa.CheckConstraint("granularity in ('payload', 'value')", name=op.f("rejects_granularity_check")),
        sa.CheckConstraint(
            "granularity = 'payload' or num_nulls(external_id, path) = 0", name=op.f("rejects_value_check")
        ),
        schema="staging",
        comment="Payloads and values that landings in progress reject, before they are published",
        prefixes=["unlogged"],
    )
    op.create_index(op.f("rejects_fetch_run_id_idx"), "rejects", ["fetch_run_id"], unique=False, schema="staging")
    op.create_table(
        "erasures",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Run that erased it"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column(
            "record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id); the external id is not kept"
        ),
        sa.Column(
            "digest", sa.LargeBinary(), nullable=False, comment="sha256 of the digests of its versions, in their order"
        ),
        sa.Column(
            "erased_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was erased",
        ),
        sa.Column(
            "lifted_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When landing it was allowed again; null = it is not",
        ),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("erasures_fetch_run_id_fkey")
        ),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("erasures_pkey")),
        schema="staging",
        comment="One row per erased record, which does not land again until lifted_at is set",
    )
    op.create_index(
        "erasures_effective_key",
        "erasures",
        ["record_id"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("lifted_at is null"),
    )
    op.create_table(
        "observations",
        sa.Column(
            "observation_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of arrival"
        ),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id)"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the volatile fields as received"),
        sa.Column(
            "counters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The volatile fields of a payload, in its structure",
        ),
        sa.Column(
            "paths",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Paths of the volatile fields in the payload",
        ),
        sa.Column(
            "observed_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the values were received; no two at one time",
        ),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Partition in which it was fetched"),
        sa.Column("landed_run", sa.UUID(), nullable=False, comment="Landing that published it"),
        sa.Column("late", sa.Boolean(), nullable=False, comment="Whether newer values were in force when it arrived"),
        sa.Column(
            "valid_from_run",
            sa.UUID(),
            nullable=True,
            comment="Transform that applied it to the tables; null = not applied",
        ),
        sa.ForeignKeyConstraint(
            ["landed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("observations_landed_run_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["valid_from_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("observations_valid_from_run_fkey")
        ),
        sa.PrimaryKeyConstraint("observation_id", name=op.f("observations_pkey")),
        schema="staging",
        comment="One row per change of a record's volatile fields, append-only; they are not part of a version",
    )
    op.create_index(
        "observations_newest_idx",
        "observations",
        ["record_id", "observation_id"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("not late"),
    )
    op.create_index(
        "observations_pending_idx",
        "observations",
        ["stream", "partition_key"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("valid_from_run is null"),
    )
    op.create_index(
        "observations_record_key", "observations", ["record_id", "observed_at"], unique=True, schema="staging"
    )
    op.create_table(
        "payloads",
        sa.Column(
            "payload_id",
            sa.UUID(),
            server_default=sa.text("uuidv7()"),
            nullable=False,
            comment="UUID v7: grows with time",
        ),
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Run that wrote the body"),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="sha256 of the bytes as received, without volatile fields",
        ),
        sa.Column(
            "body", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="The payload as the source sent it"
        ),
        sa.Column(
            "original",
            sa.LargeBinary(),
            nullable=True,
            comment="The exact bytes, where jsonb cannot represent the same value",
        ),
        sa.Column(
            "repairs",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="What was changed in body, where original is kept",
        ),
        sa.Column(
            "counters_digest",
            sa.LargeBinary(),
            nullable=True,
            comment="sha256 of the volatile fields in body; null = it has none",
        ),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("payloads_fetch_run_id_fkey")
        ),
        sa.PrimaryKeyConstraint("payload_id", name=op.f("payloads_pkey")),
        schema="staging",
        comment="One row per body, append-only; a body that no version refers to is invisible",
    )
    op.create_index(
        op.f("payloads_digest_idx"), "payloads", ["digest"], unique=False, schema="staging", postgresql_using="hash"
    )
    op.create_table(
        "quarantine",
        sa.Column(
            "quarantine_id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Number for the command line",
        ),
        sa.Column(
            "entry_key",
            sa.UUID(),
            sa.Computed(
                """
md5(granularity || ',' || quote_literal(stream) || ',' || coalesce(record_id::text, '') || ',' || case
    when granularity = 'payload' then encode(digest, 'hex')
    else quote_nullable(path) || ',' || quote_nullable(table_name)
        || ',' || quote_nullable(row_key) || ',' || quote_nullable(constraint_name)
end)::uuid
""",
                persisted=True,
            ),
            nullable=False,
            comment="md5 of what identifies the entry, which may be too long for an index",
        ),
        sa.Column("stage", sa.Text(), nullable=False, comment="land or transform"),
        sa.Column(
            "granularity",
            sa.Text(),
            nullable=False,
            comment="payload, row, or value: of a payload or a row that fits",
        ),
        sa.Column("stream", sa.Text(), nullable=False, comment="Stream of the payload; of a row, its source"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Partition of the first run"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="The source's own id, if it can be read"),
        sa.Column("record_id", sa.UUID(), nullable=True, comment="ops.key(stream, external_id), if it can be read"),
        sa.Column("request", sa.Text(), nullable=True, comment="URL without secrets, or file:line"),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the payload was received last; null = an entry of a transform",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Reason code"),
        sa.Column("detail", sa.Text(), nullable=False, comment="The reason in words"),
        sa.Column("path", sa.Text(), nullable=True, comment="JSON path of the invalid value"),
        sa.Column("byte_offset", sa.BigInteger(), nullable=True, comment="Byte at which the JSON syntax is wrong"),
        sa.Column("digest", sa.LargeBinary(), nullable=True, comment="sha256 of bytes"),
        sa.Column(
            "bytes", sa.LargeBinary(), nullable=True, comment="The payload, or the value in it, exactly as received"
        ),
        sa.Column("table_name", sa.Text(), nullable=True, comment="Table of the row"),
        sa.Column("row_key", sa.Text(), nullable=True, comment="Key of the row"),
        sa.Column("constraint_name", sa.Text(), nullable=True, comment="Constraint or column that the row violates"),
        sa.Column(
            "row",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The row, or the column with the value, as the SELECT yielded it",
        ),
        sa.Column("first_run", sa.UUID(), nullable=False, comment="First run that found it"),
        sa.Column(
            "opened_run",
            sa.UUID(),
            nullable=False,
            comment="Run that opened it, or opened it again after it was closed",
        ),
        sa.Column("last_run", sa.UUID(), nullable=False, comment="Last run that found it"),
        sa.Column("closed_run", sa.UUID(), nullable=True, comment="Run that landed the payload or inserted the row"),
        sa.Column(
            "seen", sa.BigInteger(), server_default=sa.text("1"), nullable=False, comment="How many runs found it"
        ),
        sa.Column(
            "first_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was found first",
        ),
        sa.Column(
            "last_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was found last",
        ),
        sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True, comment="When closed_run closed it"),
        sa.CheckConstraint(
            "stage <> 'land' or num_nulls(digest, bytes, received_at) = 0", name=op.f("quarantine_land_check")
        ),
        sa.CheckConstraint(
            "stage <> 'transform' or (table_name is not null and row_key is not null)",
            name=op.f("quarantine_transform_check"),
        ),
        sa.CheckConstraint(
            "granularity = 'value' or granularity = case stage when 'land' then 'payload' else 'row' end",
            name=op.f("quarantine_granularity_of_stage_check"),
        ),
        sa.CheckConstraint("granularity in ('payload', 'row', 'value')", name=op.f("quarantine_granularity_check")),
        sa.CheckConstraint("stage in ('land', 'transform')", name=op.f("quarantine_stage_check")),
        sa.CheckConstraint("(closed_at is null) = (closed_run is null)", name=op.f("quarantine_closed_check")),
        sa.ForeignKeyConstraint(
            ["closed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_closed_run_fkey")
        ),
        sa.ForeignKeyConstraint(["first_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_first_run_fkey")),
        sa.ForeignKeyConstraint(["last_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_last_run_fkey")),
        sa.ForeignKeyConstraint(
            ["opened_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_opened_run_fkey")
        ),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("quarantine_pkey")),
        sa.UniqueConstraint("entry_key", name=op.f("quarantine_entry_key_key")),
        schema="staging",
        comment="One row per rejected payload, row or value, with its reason",
    )
    op.create_index(op.f("quarantine_record_id_idx"), "quarantine", ["record_id"], unique=False, schema="staging")
    op.create_index(
        op.f("quarantine_stream_digest_idx"), "quarantine", ["stream", "digest"], unique=False, schema="staging"
    )
    op.create_table(
        "versions",
        sa.Column(
            "version_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of publishing"
        ),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the payload was received, by the database's clock",
        ),
        sa.Column(
            "confirmed_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When it was received again last, to the day; null = it was not",
        ),
        sa.Column(
            "missing_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the last full scan lacked it for the first time; null = it did not",
        ),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id of the record"),
        sa.Column("record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id)"),
        sa.Column("payload_id", sa.UUID(), nullable=True, comment="Body; null = tombstone"),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Partition in which it was fetched"),
        sa.Column("landed_run", sa.UUID(), nullable=False, comment="Landing that published it"),
        sa.Column("latest", sa.Boolean(), nullable=False, comment="Whether it was received last of its record"),
        sa.Column(
            "valid_from_run",
            sa.UUID(),
            nullable=True,
            comment="Transform that applied it to the tables; null = not applied",
        ),
        sa.Column(
            "valid_to_run",
            sa.UUID(),
            nullable=True,
            comment="Transform that replaced it or deleted its rows; null = effective, if applied",
        ),
        sa.Column(
            "identity",
            sa.Text(),
            nullable=True,
            comment="External id of the record that was renamed to this one; null = its own",
        ),
        sa.Column(
            "applied_sql",
            sa.Text(),
            nullable=True,
            comment="SELECT files (digest) that were applied to it last; null = none",
        ),
        sa.ForeignKeyConstraint(["landed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_landed_run_fkey")),
        sa.ForeignKeyConstraint(["payload_id"], ["staging.payloads.payload_id"], name=op.f("versions_payload_id_fkey")),
        sa.ForeignKeyConstraint(
            ["valid_from_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_valid_from_run_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["valid_to_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_valid_to_run_fkey")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("versions_pkey")),
        schema="staging",
        comment="One row per version of a record: when it was received, and which transforms applied and replaced it",
        postgresql_with={"fillfactor": "46"},
    )
    op.create_index(
        "versions_identity_idx",
        "versions",
        ["identity"],
        unique=False,
        schema="staging",
        postgresql_using="hash",
        postgresql_where=sa.text("identity is not null"),
    )
    op.create_index(
        "versions_latest_key",
        "versions",
        ["record_id"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("latest"),
    )
    op.create_index(
        "versions_partition_idx",
        "versions",
        ["stream", "partition_key", "applied_sql"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("latest"),
    )
    op.create_index(op.f("versions_payload_id_idx"), "versions", ["payload_id"], unique=False, schema="staging")
    op.create_index(op.f("versions_record_id_idx"), "versions", ["record_id"], unique=False, schema="staging")
    op.create_table(
        "reapplied_versions",
        sa.Column("version_id", sa.BigInteger(), nullable=False, comment="Version"),
        sa.Column(
            "fetch_run_id", sa.UUID(), nullable=False, comment="Transform that derived its rows again by changed SQL"
        ),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("reapplied_versions_fetch_run_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["staging.versions.version_id"], name=op.f("reapplied_versions_version_id_fkey")
        ),
        sa.PrimaryKeyConstraint("version_id", "fetch_run_id", name=op.f("reapplied_versions_pkey")),
        schema="staging",
        comment="One row per transform that derived rows of an effective version again by changed SQL",
    )


def downgrade() -> None:
    op.drop_table("reapplied_versions", schema="staging")
    op.drop_index(op.f("versions_record_id_idx"), table_name="versions", schema="staging")
    op.drop_index(op.f("versions_payload_id_idx"), table_name="versions", schema="staging")
    op.drop_index("versions_partition_idx", table_name="versions", schema="staging", postgresql_where=sa.text("latest"))
    op.drop_index(
        "versions_identity_idx",
        table_name="versions",
        schema="staging",
        postgresql_using="hash",
        postgresql_where=sa.text("identity is not null"),
    )
    op.drop_index("versions_latest_key", table_name="versions", schema="staging", postgresql_where=sa.text("latest"))
    op.drop_table("versions", schema="staging")
    op.drop_index(op.f("quarantine_stream_digest_idx"), table_name="quarantine", schema="staging")
    op.drop_index(op.f("quarantine_record_id_idx"), table_name="quarantine", schema="staging")
    op.drop_table("quarantine", schema="staging")
    op.drop_index(op.f("payloads_digest_idx"), table_name="payloads", schema="staging", postgresql_using="hash")
    op.drop_table("payloads", schema="staging")
    op.drop_index("observations_record_key", table_name="observations", schema="staging")
    op.drop_index(
        "observations_pending_idx",
        table_name="observations",
        schema="staging",
        postgresql_where=sa.text("valid_from_run is null"),
    )
    op.drop_index(
        "observations_newest_idx", table_name="observations", schema="staging", postgresql_where=sa.text("not late")
    )
    op.drop_table("observations", schema="staging")
    op.drop_index(
        "erasures_effective_key", table_name="erasures", schema="staging", postgresql_where=sa.text("lifted_at is null")
    )
    op.drop_table("erasures", schema="staging")
    op.drop_index(op.f("rejects_fetch_run_id_idx"), table_name="rejects", schema="staging")
    op.drop_table("rejects", schema="staging")
    op.drop_index(op.f("changed_rows_key_idx"), table_name="changed_rows", schema="staging", postgresql_using="hash")
    op.drop_table("changed_rows", schema="staging")
    op.drop_index(op.f("aliases_lost_key_idx"), table_name="aliases", schema="staging", postgresql_using="hash")
    op.drop_index(op.f("aliases_record_id_idx"), table_name="aliases", schema="staging")
    op.drop_table("aliases", schema="staging")
    op.drop_index(op.f("pending_rows_key_idx"), table_name="pending_rows", schema="staging", postgresql_using="hash")
    op.drop_index(op.f("pending_rows_record_id_idx"), table_name="pending_rows", schema="staging")
    op.drop_table("pending_rows", schema="staging")
    op.drop_table("checkpoints", schema="staging")
    op.drop_index(op.f("arrivals_fetch_run_id_idx"), table_name="arrivals", schema="staging")
    op.drop_table("arrivals", schema="staging")

    op.execute("drop schema staging")
