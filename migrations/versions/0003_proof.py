"""proof: what tables hold after each run, which versions were derived again by other SQL, runs of a whole domain

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


IN_FORCE = """create or replace function ops.in_force(record uuid, up_to bigint default 9223372036854775807)
returns table (
    version_id bigint, payload_id uuid, stream text, external_id text, digest text, request text,
    fetched_at timestamptz, landed_run uuid, derived_run uuid, sql jsonb
) language sql stable parallel safe as $$
    select v.version_id, v.payload_id, v.stream, v.external_id, encode(v.digest, 'hex'), v.request,
        v.fetched_at, v.landed_run, made.fetch_run_id, made.stats -> 'sql'
    from staging.versions v
    join ops.fetch_runs f on f.fetch_run_id = v.from_run
    left join ops.fetch_runs t on t.fetch_run_id = v.to_run
    cross join lateral (
        select r.fetch_run_id, r.stats from ops.fetch_runs r
        where r.published <= up_to
          and r.fetch_run_id = any(array(
              select v.from_run union all
              select d.fetch_run_id from staging.derivations d where d.version_id = v.version_id))
        order by r.published desc limit 1
    ) as made
    where v.record_id = record and v.payload_id is not null
      and f.published <= up_to and (t.published is null or t.published > up_to)
$$"""
TRACE = """-- One row per row of a domain, with what proves it.
select
    k.table_name,
    k.key,
    k.through,
    k.record_id,
    p.stream,
    p.external_id,
    p.version_id,
    p.payload_id,
    p.digest,
    o.observation_id,
    coalesce(o.request, p.request) as request,
    coalesce(o.observed_at, p.fetched_at) as fetched_at,
    coalesce(o.landed_run, p.landed_run) as landed_run,
    p.derived_run,
    a.address || '.sql' as sql_path,
    p.sql ->> a.address as sql_digest
from (
select 'catalog.models' as table_name, concat_ws(' ', "t"."model_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."models" as t
union all
select 'catalog.tags' as table_name, concat_ws(' ', "t"."tag_id"::text) as key, case when t.record_id is null then f.through end as through, coalesce(t.record_id, f.record_id) as record_id, null::timestamptz as observed_at from "catalog"."tags" as t left join lateral (select * from ((select 'catalog.model_tags' as through, r.record_id from "catalog"."model_tags" as r where "r"."tag_id" = "t"."tag_id" limit 1) union all (select 'catalog.image_tags' as through, r.record_id from "catalog"."image_tags" as r where "r"."tag_id" = "t"."tag_id" limit 1)) as r limit 1) as f on true
union all
select 'catalog.workflows' as table_name, concat_ws(' ', "t"."workflow_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."workflows" as t
union all
select 'catalog.model_stats' as table_name, concat_ws(' ', "t"."model_id"::text, "t"."observed_at"::text) as key, null as through, t.record_id, t.observed_at as observed_at from "catalog"."model_stats" as t
union all
select 'catalog.model_tags' as table_name, concat_ws(' ', "t"."model_id"::text, "t"."tag_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."model_tags" as t
union all
select 'catalog.model_versions' as table_name, concat_ws(' ', "t"."model_version_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."model_versions" as t
union all
select 'catalog.artifacts' as table_name, concat_ws(' ', "t"."artifact_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."artifacts" as t
union all
select 'catalog.images' as table_name, concat_ws(' ', "t"."image_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."images" as t
union all
select 'catalog.image_tags' as table_name, concat_ws(' ', "t"."image_id"::text, "t"."tag_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."image_tags" as t
union all
select 'catalog.prompts' as table_name, concat_ws(' ', "t"."prompt_id"::text) as key, null as through, t.record_id, null::timestamptz as observed_at from "catalog"."prompts" as t
) as k
left join lateral ops.in_force(k.record_id) as p on true
left join staging.observations as o on o.record_id = k.record_id and o.observed_at = k.observed_at
cross join lateral (
    select split_part(p.stream, '.', 1) || '/' || split_part(k.table_name, '.', 2) as address
) as a"""
TRACE_COLUMNS = {
    "table_name": "schema.table",
    "key": "Its primary key as text, by spaces",
    "through": "Table of a row that refers to it, for a shared row",
    "record_id": "Record that it was derived from",
    "stream": "Stream of the record",
    "external_id": "The source''s own id of the record",
    "version_id": "Version in force; staging.versions has it",
    "payload_id": "Its body; staging.payloads has it",
    "digest": "sha256 of the bytes as received, counters left out, lower hex",
    "observation_id": "Counters that it was derived from, in a series; staging.observations has them",
    "request": "URL without secrets, or file:line",
    "fetched_at": "When it was received",
    "landed_run": "Landing that published it",
    "derived_run": "Run that derived the row",
    "sql_path": "SELECT file that derived it, below sql/",
    "sql_digest": "sha256 of the text it had then; ops.sql has it",
}
RUN_COLUMNS = (
    ("source_id", sa.UUID(), True, "Source of the run, if it has one", "Source of the run"),
    (
        "stream",
        sa.Text(),
        False,
        "What was landed or transformed: domain/source; or a domain",
        "What was landed or transformed: domain/source",
    ),
    ("kind", sa.Text(), False, "What was done", "land or transform"),
    (
        "partition_key",
        sa.Text(),
        False,
        "Day that was landed or transformed, or all",
        "Day that was landed or transformed",
    ),
)


def upgrade() -> None:
    op.drop_constraint(op.f("fetch_runs_kind_check"), "fetch_runs", schema="ops")
    op.create_check_constraint(
        op.f("fetch_runs_kind_check"),
        "fetch_runs",
        "kind in ('land', 'transform', 'rebuild', 'prune', 'erase')",
        schema="ops",
    )
    op.create_check_constraint(
        op.f("fetch_runs_not_negative_check"),
        "fetch_runs",
        "least(fetched, created, updated, unchanged, deleted, quarantined, duplicates) >= 0",
        schema="ops",
    )
    for column, kind, nullable, comment, before in RUN_COLUMNS:
        op.alter_column(
            "fetch_runs",
            column,
            existing_type=kind,
            nullable=nullable,
            comment=comment,
            existing_comment=before,
            schema="ops",
        )
    op.create_table(
        "tables",
        sa.Column("table_name", sa.Text(), nullable=False, comment="schema.table"),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="How many rows it has"),
        sa.Column(
            "digest",
            sa.BigInteger(),
            nullable=False,
            comment="Sum of the hashes of its rows, audit columns left out",
        ),
        sa.PrimaryKeyConstraint("table_name", name=op.f("tables_pkey")),
        schema="ops",
        comment="What the tables of the domains hold, kept up by each transform; its runs keep what they left behind",
    )
    op.create_table(
        "derivations",
        sa.Column("version_id", sa.BigInteger(), nullable=False, comment="Version"),
        sa.Column(
            "fetch_run_id",
            sa.UUID(),
            nullable=False,
            comment="Transform that derived its rows anew, by other SQL than the transform before",
        ),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("derivations_fetch_run_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["staging.versions.version_id"], name=op.f("derivations_version_id_fkey")
        ),
        sa.PrimaryKeyConstraint("version_id", "fetch_run_id", name=op.f("derivations_pkey")),
        schema="staging",
        comment="One row each time a version in force was derived by other SQL; else that of its from_run holds",
    )
    op.execute("alter table staging.versions set (fillfactor = 45)")
    op.create_table(
        "erasures",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Run that erased it"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column(
            "record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id); the id itself is not kept"
        ),
        sa.Column(
            "digest", sa.LargeBinary(), nullable=False, comment="sha256 of the digests of its versions, in their order"
        ),
        sa.Column(
            "erased_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was erased",
        ),
        sa.Column("lifted_at", sa.TIMESTAMP(timezone=True), comment="Since when it may land again"),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("erasures_fetch_run_id_fkey")
        ),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("erasures_pkey")),
        schema="staging",
        comment="Records that were erased, and do not land again: what is left of them",
    )
    op.create_index(
        "erasures_in_force_key",
        "erasures",
        ["record_id"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("lifted_at is null"),
    )
    op.create_table(
        "schema_drift",
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, with its kind where it has several"),
        sa.Column(
            "path",
            sa.Text(),
            nullable=False,
            comment="modelVersions[*].files[*].sizeKB; *: any other key; $: the payload",
        ),
        sa.Column("type", sa.Text(), nullable=False, comment="What was there"),
        sa.Column("first_run", sa.UUID(), nullable=False, comment="Landing that saw it first"),
        sa.Column("last_run", sa.UUID(), nullable=False, comment="Landing that saw it last"),
        sa.Column(
            "payloads",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads that had it, of those looked at",
        ),
        sa.Column(
            "of_payloads",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads looked at that had the object or array it is in",
        ),
        sa.Column(
            "missed",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="How many of these came since the last that had it",
        ),
        sa.Column(
            "share",
            sa.Numeric(),
            sa.Computed("round(least(payloads, of_payloads) / nullif(of_payloads, 0)::numeric, 4)", persisted=True),
            comment="payloads of of_payloads, at most 1",
        ),
        sa.Column("payload_id", sa.UUID(), comment="The first payload that was seen with it; it may be gone since"),
        sa.CheckConstraint(
            "type in ('null', 'boolean', 'number', 'string', 'array', 'object')",
            name=op.f("schema_drift_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["first_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("schema_drift_first_run_fkey")
        ),
        sa.ForeignKeyConstraint(["last_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("schema_drift_last_run_fkey")),
        sa.PrimaryKeyConstraint("stream", "path", "type", name=op.f("schema_drift_pkey")),
        schema="ops",
        comment="One row a stream, JSON path and type: what payloads hold, since and until which landing; from a sample",
    )
    op.execute(IN_FORCE)
    op.execute(
        "comment on function ops.in_force(record uuid, up_to bigint) is "
        "'The version of a record that is in its domain''s tables, or was after a published run'"
    )
    op.execute(f"create view ops.trace as\n{TRACE}")
    op.execute("comment on view ops.trace is 'One row per row of a domain, with what proves it'")
    for column, comment in TRACE_COLUMNS.items():
        op.execute(f"comment on column ops.trace.{column} is '{comment}'")


def downgrade() -> None:
    op.execute("drop view ops.trace")
    op.execute("drop function ops.in_force(uuid, bigint)")
    op.drop_table("schema_drift", schema="ops")
    op.drop_table("erasures", schema="staging")
    op.execute("alter table staging.versions reset (fillfactor)")
    op.drop_table("derivations", schema="staging")
    op.drop_table("tables", schema="ops")
    op.execute("delete from ops.fetch_runs where kind not in ('land', 'transform')")
    for column, kind, _, comment, before in RUN_COLUMNS:
        op.alter_column(
            "fetch_runs",
            column,
            existing_type=kind,
            nullable=False,
            comment=before,
            existing_comment=comment,
            schema="ops",
        )
    op.drop_constraint(op.f("fetch_runs_not_negative_check"), "fetch_runs", schema="ops")
    op.drop_constraint(op.f("fetch_runs_kind_check"), "fetch_runs", schema="ops")
    op.create_check_constraint(
        op.f("fetch_runs_kind_check"), "fetch_runs", "kind in ('land', 'transform')", schema="ops"
    )
