"""live sources: hosts, counters, what waits for what, landings that go on where they broke off, views for analysts

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

FUNCTIONS = (
    """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc) collate pg_c_utf8), '[\\s_]+', '_', 'g'))""",
    """create function ops.shown(rating text)
returns boolean language sql stable parallel safe
return rating = any (string_to_array(
    replace(coalesce(nullif(current_setting('atlas.ratings', true), ''), 'Safe'), ' ', ''), ','))""",
    """create function ops.put_back(body jsonb, counters jsonb, paths jsonb)
returns jsonb language plpgsql immutable parallel safe as $$
declare
    path text[];
begin
    for path in
        select array(select jsonb_array_elements_text(p.steps)) from jsonb_array_elements(paths) as p (steps)
    loop
        body := jsonb_set(body, path, counters #> path, false);
    end loop;
    return body;
end $$""",
    """comment on function ops.shown(text) is 'Whether what has a rating may be shown: Safe, or what the setting atlas.ratings lists, by commas'""",
    """comment on function ops.put_back(jsonb, jsonb, jsonb) is 'A payload with other counters at the same places'""",
)
TAG_NAME_BEFORE = """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc)), '[\\s_]+', '_', 'g'))"""
VIEWS = {
    "images": (
        """One row per image that may be shown: Safe ones, or those of the ratings in the setting atlas.ratings.""",
        """-- One row per image that may be shown: Safe ones, or those of the ratings in the setting atlas.ratings.
select
    i.image_id,
    i.model_id,
    i.model_version_id,
    s.name          as source,
    i.external_id,
    i.rating,
    i.url,
    i.preview_url,
    i.width,
    i.height,
    i.md5,
    i.sha256,
    i.record_id
from catalog.images as i
join ops.sources as s on s.source_id = i.source_id
where ops.shown(i.rating)""",
    ),
    "models": (
        """One row per model that may be shown: Safe ones, or those of the ratings in the setting atlas.ratings.""",
        """-- One row per model that may be shown: Safe ones, or those of the ratings in the setting atlas.ratings.
select
    m.model_id,
    s.name          as source,
    m.external_id,
    m.name,
    m.type,
    m.description,
    m.nsfw_rating   as rating,
    c.downloads,
    c.likes,
    c.rating        as mean_rating,
    c.observed_at   as counted_at,
    m.record_id
from catalog.models as m
join ops.sources as s on s.source_id = m.source_id
left join lateral (
    select e.downloads, e.likes, e.rating, e.observed_at
    from catalog.model_stats as e
    where e.model_id = m.model_id
    order by e.observed_at desc
    limit 1
) as c on true
where ops.shown(m.nsfw_rating)""",
    ),
    "prompts": (
        """One row per prompt whose image and model may be shown, where it has them; of the ratings in atlas.ratings, else Safe.""",
        """-- One row per prompt whose image and model may be shown, where it has them; of the ratings in atlas.ratings, else Safe.
select
    p.prompt_id,
    p.image_id,
    p.model_id,
    p.model_version_id,
    p.workflow_id,
    s.name          as source,
    p.text,
    p.negative_text,
    p.metadata,
    p.record_id
from catalog.prompts as p
join ops.sources as s on s.source_id = p.source_id
left join catalog.images as i on i.image_id = p.image_id
left join catalog.models as m on m.model_id = p.model_id
where case
        when i.image_id is not null then ops.shown(i.rating)
        -- It waits for an image that is not there: what that shows is not known.
        when exists (
            select from staging.waits as w
            where w.record_id = p.record_id and w.table_name = 'catalog.images' and w.reason = 'parent'
        ) then ops.shown('Unknown')
        else true
    end
  and (m.nsfw_rating is null or ops.shown(m.nsfw_rating))""",
    ),
}
RENAMED = (("catalog/civitai", "catalog/civitai.models"),)
"""Streams that have a kind from now on, because their source has several."""
OWNED = ("models", "model_versions", "model_tags", "artifacts", "images", "prompts")

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def rename(stream: str, name: str) -> None:
    """Gives a stream another name, and its records the ids that follow from it."""
    parameters = {"stream": stream, "name": name}
    for table in OWNED:
        op.get_bind().execute(
            sa.text(
                f"update catalog.{table} t set record_id = ops.key(:name, v.external_id) "  # noqa: S608
                "from staging.versions v where v.stream = :stream and v.latest and t.record_id = v.record_id"
            ),
            parameters,
        )
    for table in ("versions", "quarantine"):
        op.get_bind().execute(
            sa.text(
                f"update staging.{table} set stream = :name, "  # noqa: S608
                "record_id = case when external_id is not null then ops.key(:name, external_id) end "
                "where stream = :stream"
            ),
            parameters,
        )


def upgrade() -> None:
    for statement in FUNCTIONS:
        op.execute(statement)
    op.create_table(
        "hosts",
        sa.Column("host", sa.Text(), nullable=False, comment="Host and port that sources are read from"),
        sa.Column(
            "next_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("'epoch'"),
            nullable=False,
            comment="Not to be asked before",
        ),
        sa.Column(
            "free_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("'epoch'"),
            nullable=False,
            comment="It asked to be left alone until then",
        ),
        sa.PrimaryKeyConstraint("host", name=op.f("hosts_pkey")),
        schema="ops",
        comment="Whose turn it is: when each host may be asked next, by whichever run",
    )
    op.create_table(
        "arrivals",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing under way, or one that broke off"),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="Order received"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id of the record"),
        sa.Column(
            "digest", sa.LargeBinary(), nullable=False, comment="sha256 of the bytes as received, counters left out"
        ),
        sa.Column(
            "version_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="The source's modification time, else that of its fetch",
        ),
        sa.Column("fetched_at", postgresql.TIMESTAMP(timezone=True), nullable=False, comment="When it was received"),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("counters_digest", sa.LargeBinary(), nullable=True, comment="sha256 of the counters"),
        sa.Column(
            "counters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The volatile parts of the payload",
        ),
        sa.Column(
            "paths", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Where in the payload they are"
        ),
        schema="staging",
        comment="Payloads of landings under way, before they are published",
        prefixes=["unlogged"],
    )
    op.create_index(op.f("arrivals_fetch_run_id_idx"), "arrivals", ["fetch_run_id"], unique=False, schema="staging")
    op.create_table(
        "checkpoints",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing under way, or one that broke off"),
        sa.Column(
            "progress",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="How far its listings were read, and what it counted",
        ),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("checkpoints_pkey")),
        schema="staging",
        comment="Where a landing that broke off goes on",
        prefixes=["unlogged"],
    )
    op.create_table(
        "rejects",
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Landing under way, or one that broke off"),
        sa.Column("place", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order received"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("bytes", sa.LargeBinary(), nullable=False, comment="The payload exactly as received"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of bytes"),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="The source's own id, where it could be read"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Reason code"),
        sa.Column("detail", sa.Text(), nullable=False, comment="The reason in words"),
        sa.Column("path", sa.Text(), nullable=True, comment="JSON path of the value that is wrong"),
        sa.Column("byte_offset", sa.BigInteger(), nullable=True, comment="Byte at which the payload stops being JSON"),
        schema="staging",
        comment="Payloads that landings under way reject, before they are published",
        prefixes=["unlogged"],
    )
    op.create_index(op.f("rejects_fetch_run_id_idx"), "rejects", ["fetch_run_id"], unique=False, schema="staging")
    op.create_table(
        "waits",
        sa.Column("record_id", sa.UUID(), nullable=False, comment="Record that has a row that waits"),
        sa.Column("stream", sa.Text(), nullable=False, comment="Its stream"),
        sa.Column("table_name", sa.Text(), nullable=False, comment="Table of the row that is waited for"),
        sa.Column("key", sa.Text(), nullable=False, comment="Key of that row"),
        sa.Column("reason", sa.Text(), nullable=False, comment="parent: until it comes; claim, unique: until it goes"),
        schema="staging",
        comment="Which rows wait for which: a child for its parent, a claim for the row that has what it claims",
    )
    op.create_index(op.f("waits_record_id_idx"), "waits", ["record_id"], unique=False, schema="staging")
    op.create_index(op.f("waits_table_name_key_idx"), "waits", ["table_name", "key"], unique=False, schema="staging")
    op.create_table(
        "model_stats",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model"),
        sa.Column(
            "observed_at", postgresql.TIMESTAMP(timezone=True), nullable=False, comment="When the source said so"
        ),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("downloads", sa.BigInteger(), nullable=True, comment="As the source counts them"),
        sa.Column("likes", sa.BigInteger(), nullable=True, comment="Likes, thumbs up"),
        sa.Column("rating", sa.Numeric(), nullable=True, comment="Mean rating, where the source has one"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the source says beyond the columns, as it says it",
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("model_stats_model_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "observed_at", name=op.f("model_stats_pkey")),
        schema="catalog",
        comment="One row a model and time at which its counters had changed",
    )
    op.create_index(op.f("model_stats_record_id_idx"), "model_stats", ["record_id"], unique=False, schema="catalog")
    op.create_table(
        "observations",
        sa.Column(
            "observation_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of publishing"
        ),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source, or domain/source.kind"),
        sa.Column("record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id)"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the counters as received"),
        sa.Column(
            "counters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The volatile parts of a payload, in its structure",
        ),
        sa.Column(
            "paths", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Where in the payload they are"
        ),
        sa.Column(
            "observed_at", postgresql.TIMESTAMP(timezone=True), nullable=False, comment="When the source said so"
        ),
        sa.Column(
            "seen_at", postgresql.TIMESTAMP(timezone=True), nullable=False, comment="When it said the same last, by day"
        ),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Day under which it was fetched"),
        sa.Column("landed_run", sa.UUID(), nullable=False, comment="Landing that published it"),
        sa.Column("latest", sa.Boolean(), nullable=False, comment="What the source says now"),
        sa.Column("from_run", sa.UUID(), nullable=True, comment="Transform that took it into the tables"),
        sa.ForeignKeyConstraint(["from_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("observations_from_run_fkey")),
        sa.ForeignKeyConstraint(
            ["landed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("observations_landed_run_fkey")
        ),
        sa.PrimaryKeyConstraint("observation_id", name=op.f("observations_pkey")),
        schema="staging",
        comment="One row a record and time at which its counters had changed; they make no version of their own",
    )
    op.create_index(
        "observations_latest_key",
        "observations",
        ["record_id"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("latest"),
    )
    op.create_index(
        "observations_record_key", "observations", ["record_id", "observed_at"], unique=True, schema="staging"
    )
    op.create_index(
        "observations_waiting_idx",
        "observations",
        ["stream", "partition_key"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("from_run is null"),
    )
    op.alter_column(
        "artifacts",
        "artifact_id",
        existing_type=sa.UUID(),
        comment="ops.key of its version's key parts and the file",
        existing_comment="ops.key(source, model, version, file)",
        existing_nullable=False,
        schema="catalog",
    )
    op.alter_column(
        "images",
        "model_id",
        existing_type=sa.UUID(),
        comment="Model it shows, where the source names it",
        existing_comment="Model it shows",
        existing_nullable=True,
        schema="catalog",
    )
    op.alter_column(
        "model_versions",
        "model_version_id",
        existing_type=sa.UUID(),
        comment="ops.key(source, version), or (source, model, version) where only models have ids",
        existing_comment="ops.key(source, model, version)",
        existing_nullable=False,
        schema="catalog",
    )
    op.add_column(
        "tags",
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=True,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof; null = shared by the rows that refer to it",
        ),
        schema="catalog",
    )
    op.create_index(op.f("tags_record_id_idx"), "tags", ["record_id"], unique=False, schema="catalog")
    op.create_table_comment(
        "tags",
        "One row a tag of a source, shared by all that carry it; owned by the tag's own record where there is one",
        existing_comment="One row a tag of a source, shared by all that carry it",
        schema="catalog",
    )
    op.add_column(
        "payloads",
        sa.Column(
            "counters_digest",
            sa.LargeBinary(),
            nullable=True,
            comment="sha256 of the counters that body holds, where it has any",
        ),
        schema="staging",
    )
    op.alter_column(
        "payloads",
        "digest",
        existing_type=postgresql.BYTEA(),
        comment="sha256 of the bytes as received, counters left out",
        existing_comment="sha256 of the bytes as received",
        existing_nullable=False,
        schema="staging",
    )
    op.add_column(
        "versions",
        sa.Column(
            "renamed_from",
            sa.UUID(),
            nullable=True,
            comment="Record with the same content that was gone when this one came: a file renamed",
        ),
        schema="staging",
    )
    op.alter_column(
        "versions",
        "digest",
        existing_type=postgresql.BYTEA(),
        comment="sha256 of the bytes as received, counters left out",
        existing_comment="sha256 of the bytes as received",
        existing_nullable=True,
        schema="staging",
    )
    for stream, name in RENAMED:
        rename(stream, name)
    op.execute("create schema marts")
    op.execute("comment on schema marts is 'What analysts read: views over the domains'")
    for view, (comment, select) in VIEWS.items():
        op.execute(f"create view marts.{view} as\n{select}")
        op.execute(f"comment on view marts.{view} is '{comment}'")


def downgrade() -> None:
    op.execute("drop schema marts cascade")
    for stream, name in RENAMED:
        rename(name, stream)
    op.alter_column(
        "versions",
        "digest",
        existing_type=postgresql.BYTEA(),
        comment="sha256 of the bytes as received",
        existing_comment="sha256 of the bytes as received, counters left out",
        existing_nullable=True,
        schema="staging",
    )
    op.drop_column("versions", "renamed_from", schema="staging")
    op.alter_column(
        "payloads",
        "digest",
        existing_type=postgresql.BYTEA(),
        comment="sha256 of the bytes as received",
        existing_comment="sha256 of the bytes as received, counters left out",
        existing_nullable=False,
        schema="staging",
    )
    op.drop_column("payloads", "counters_digest", schema="staging")
    op.create_table_comment(
        "tags",
        "One row a tag of a source, shared by all that carry it",
        existing_comment="One row a tag of a source, shared by all that carry it; owned by the tag's own record where there is one",
        schema="catalog",
    )
    op.drop_index(op.f("tags_record_id_idx"), table_name="tags", schema="catalog")
    op.drop_column("tags", "record_id", schema="catalog")
    op.alter_column(
        "model_versions",
        "model_version_id",
        existing_type=sa.UUID(),
        comment="ops.key(source, model, version)",
        existing_comment="ops.key(source, version), or (source, model, version) where only models have ids",
        existing_nullable=False,
        schema="catalog",
    )
    op.alter_column(
        "images",
        "model_id",
        existing_type=sa.UUID(),
        comment="Model it shows",
        existing_comment="Model it shows, where the source names it",
        existing_nullable=True,
        schema="catalog",
    )
    op.alter_column(
        "artifacts",
        "artifact_id",
        existing_type=sa.UUID(),
        comment="ops.key(source, model, version, file)",
        existing_comment="ops.key of its version's key parts and the file",
        existing_nullable=False,
        schema="catalog",
    )
    op.drop_index(
        "observations_waiting_idx",
        table_name="observations",
        schema="staging",
        postgresql_where=sa.text("from_run is null"),
    )
    op.drop_index("observations_record_key", table_name="observations", schema="staging")
    op.drop_index(
        "observations_latest_key", table_name="observations", schema="staging", postgresql_where=sa.text("latest")
    )
    op.drop_table("observations", schema="staging")
    op.drop_index(op.f("model_stats_record_id_idx"), table_name="model_stats", schema="catalog")
    op.drop_table("model_stats", schema="catalog")
    op.drop_index(op.f("waits_table_name_key_idx"), table_name="waits", schema="staging")
    op.drop_index(op.f("waits_record_id_idx"), table_name="waits", schema="staging")
    op.drop_table("waits", schema="staging")
    op.drop_index(op.f("rejects_fetch_run_id_idx"), table_name="rejects", schema="staging")
    op.drop_table("rejects", schema="staging")
    op.drop_table("checkpoints", schema="staging")
    op.drop_index(op.f("arrivals_fetch_run_id_idx"), table_name="arrivals", schema="staging")
    op.drop_table("arrivals", schema="staging")
    op.drop_table("hosts", schema="ops")
    op.execute("drop function ops.put_back(jsonb, jsonb, jsonb)")
    op.execute("drop function ops.shown(text)")
    op.execute(TAG_NAME_BEFORE)
