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
    p.request,
    p.fetched_at,
    p.landed_run,
    p.derived_run,
    a.address || '.sql' as sql_path,
    p.sql ->> a.address as sql_digest
from (
select 'catalog.models' as table_name, concat_ws(' ', "t"."model_id"::text) as key, null as through, t.record_id from "catalog"."models" as t
union all
select 'catalog.tags' as table_name, concat_ws(' ', "t"."tag_id"::text) as key, case when t.record_id is null then f.through end, coalesce(t.record_id, f.record_id) from "catalog"."tags" as t left join lateral (select * from ((select 'catalog.model_tags' as through, r.record_id from "catalog"."model_tags" as r where "r"."tag_id" = "t"."tag_id" limit 1) union all (select 'catalog.image_tags' as through, r.record_id from "catalog"."image_tags" as r where "r"."tag_id" = "t"."tag_id" limit 1)) as r limit 1) as f on true
union all
select 'catalog.workflows' as table_name, concat_ws(' ', "t"."workflow_id"::text) as key, null as through, t.record_id from "catalog"."workflows" as t
union all
select 'catalog.model_stats' as table_name, concat_ws(' ', "t"."model_id"::text, "t"."observed_at"::text) as key, null as through, t.record_id from "catalog"."model_stats" as t
union all
select 'catalog.model_tags' as table_name, concat_ws(' ', "t"."model_id"::text, "t"."tag_id"::text) as key, null as through, t.record_id from "catalog"."model_tags" as t
union all
select 'catalog.model_versions' as table_name, concat_ws(' ', "t"."model_version_id"::text) as key, null as through, t.record_id from "catalog"."model_versions" as t
union all
select 'catalog.artifacts' as table_name, concat_ws(' ', "t"."artifact_id"::text) as key, null as through, t.record_id from "catalog"."artifacts" as t
union all
select 'catalog.images' as table_name, concat_ws(' ', "t"."image_id"::text) as key, null as through, t.record_id from "catalog"."images" as t
union all
select 'catalog.image_tags' as table_name, concat_ws(' ', "t"."image_id"::text, "t"."tag_id"::text) as key, null as through, t.record_id from "catalog"."image_tags" as t
union all
select 'catalog.prompts' as table_name, concat_ws(' ', "t"."prompt_id"::text) as key, null as through, t.record_id from "catalog"."prompts" as t
) as k
left join lateral ops.in_force(k.record_id) as p on true
cross join lateral (
    select split_part(p.stream, '.', 1) || '/' || split_part(coalesce(k.through, k.table_name), '.', 2) as address
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
    op.drop_constraint(op.f("fetch_runs_kind_check"), "fetch_runs", schema="ops")
    op.create_check_constraint(
        op.f("fetch_runs_kind_check"), "fetch_runs", "kind in ('land', 'transform')", schema="ops"
    )
