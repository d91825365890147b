"""the house, and the catalogue

Revision: 0001, after nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

PARAMETERS = ("a", "b", "c", "d", "e", "f")
SCHEMAS = {
    "ops": "The ledger of every run, the sources, and functions that SELECTs share",
    "staging": "Raw payloads as the sources sent them, their versions, and what did not fit",
    "catalog": "Models and media: what exists, where it is published, what it was made with",
}
TABLES = (
    "catalog.prompts",
    "catalog.image_tags",
    "staging.versions",
    "catalog.images",
    "catalog.artifacts",
    "staging.quarantine",
    "staging.payloads",
    "catalog.model_versions",
    "catalog.model_tags",
    "ops.fetch_runs",
    "catalog.workflows",
    "catalog.tags",
    "catalog.models",
    "ops.sql",
    "ops.sources",
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for schema, comment in SCHEMAS.items():
        op.execute(f"create schema {schema}")
        op.execute(f"comment on schema {schema} is '{comment}'")
    for arity in range(1, len(PARAMETERS) + 1):
        names = PARAMETERS[:arity]
        joined = " || ',' || ".join(f"quote_nullable({name})" for name in names)
        op.execute(
            f"""create function ops.key({", ".join(f"{name} text" for name in names)})
returns uuid language sql immutable parallel safe
return md5({joined})::uuid"""
        )
        op.execute(
            f"comment on function ops.key({', '.join(['text'] * arity)}) is "
            "'Surrogate key of a natural key: md5 of an unambiguous join, as uuid'"
        )
    op.execute(
        """create function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc)), '[\\s_]+', '_', 'g'))"""
    )
    op.execute(
        "comment on function ops.tag_name(text) is "
        "'A tag as every source spells it: NFKC, lower case, trimmed, runs of spaces and underscores as one underscore'"
    )
    op.execute(sa.schema.CreateSequence(sa.Sequence("published", schema="ops")))
    op.create_table(
        "sources",
        sa.Column("source_id", sa.UUID(), nullable=False, comment="ops.key(name)"),
        sa.Column("name", sa.Text(), nullable=False, comment="domain/source"),
        sa.Column("kind", sa.Text(), nullable=False, comment="How the source is read: http, folder"),
        sa.Column(
            "base_url",
            sa.Text(),
            nullable=True,
            comment="Where it is read when nothing else is set; never with secrets",
        ),
        sa.Column(
            "is_active",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="Set when its connector runs",
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
        sa.UniqueConstraint("name", deferrable=True, initially="IMMEDIATE", name=op.f("sources_name_key")),
        schema="ops",
        comment="One row a source, written from its declaration",
    )
    op.create_table(
        "sql",
        sa.Column("digest", sa.Text(), nullable=False, comment="sha256 of the text, lower hex"),
        sa.Column("path", sa.Text(), nullable=False, comment="File it was read from, below sql/"),
        sa.Column("text", sa.Text(), nullable=False, comment="The SELECT as it was run"),
        sa.PrimaryKeyConstraint("digest", name=op.f("sql_pkey")),
        schema="ops",
        comment="Each SELECT that ever ran, by digest",
    )
    op.create_table(
        "models",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="ops.key(source, external id)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that published it"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("name", sa.Text(), nullable=False, comment="As its publisher calls it"),
        sa.Column("type", sa.Text(), nullable=False, comment="Unknown ones are Other; raw has the original"),
        sa.Column("description", sa.Text(), nullable=True, comment="As published, HTML or Markdown"),
        sa.Column("nsfw_rating", sa.Text(), nullable=False, comment="Over all sources alike"),
        sa.Column(
            "raw",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The payload less the parts that became rows of their own",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint(
            "nsfw_rating in ('Safe', 'Questionable', 'Explicit', 'Unknown')", name=op.f("models_nsfw_rating_check")
        ),
        sa.CheckConstraint(
            "type in ('Checkpoint', 'TextualInversion', 'Hypernetwork', 'AestheticGradient', 'LORA', 'Controlnet', 'Poses', 'VAE', 'LLM', 'Other')",
            name=op.f("models_type_check"),
        ),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("models_external_id_check")),
        sa.CheckConstraint("length(name) <= 500", name=op.f("models_name_check")),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("models_source_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("models_pkey")),
        sa.UniqueConstraint(
            "source_id",
            "external_id",
            deferrable=True,
            initially="IMMEDIATE",
            name=op.f("models_source_id_external_id_key"),
        ),
        schema="catalog",
        comment="One row a model of a source",
    )
    op.create_index(op.f("models_created_at_idx"), "models", ["created_at"], unique=False, schema="catalog")
    op.create_index(
        op.f("models_raw_idx"),
        "models",
        ["raw"],
        unique=False,
        schema="catalog",
        postgresql_using="gin",
        postgresql_ops={"raw": "jsonb_path_ops"},
    )
    op.create_index(op.f("models_record_id_idx"), "models", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("models_source_id_idx"), "models", ["source_id"], unique=False, schema="catalog")
    op.create_index(op.f("models_type_idx"), "models", ["type"], unique=False, schema="catalog")
    op.create_table(
        "tags",
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="ops.key(source, normalized name)"),
        sa.Column("source_id", sa.UUID(), nullable=True, comment="Source that published it"),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="Readable form; the spelling used is on the row that links it"
        ),
        sa.Column("normalized_name", sa.Text(), nullable=False, comment="ops.tag_name(name)"),
        sa.Column("category", sa.Text(), nullable=True, comment="The source's own class of tag"),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.CheckConstraint("length(name) <= 255", name=op.f("tags_name_check")),
        sa.CheckConstraint("length(normalized_name) <= 255", name=op.f("tags_normalized_name_check")),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("tags_source_id_fkey")),
        sa.PrimaryKeyConstraint("tag_id", name=op.f("tags_pkey")),
        sa.UniqueConstraint(
            "normalized_name",
            "source_id",
            deferrable=True,
            initially="IMMEDIATE",
            name=op.f("tags_normalized_name_source_id_key"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="catalog",
        comment="One row a tag of a source, shared by all that carry it",
    )
    op.create_index(op.f("tags_normalized_name_idx"), "tags", ["normalized_name"], unique=False, schema="catalog")
    op.create_index(op.f("tags_source_id_idx"), "tags", ["source_id"], unique=False, schema="catalog")
    op.create_table(
        "workflows",
        sa.Column("workflow_id", sa.UUID(), nullable=False, comment="ops.key(source, external id)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that published it"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("title", sa.Text(), nullable=True, comment="Its own title, else its file's name"),
        sa.Column(
            "graph",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The graph, UI format (nodes, links) or API format (numbered nodes)",
        ),
        sa.Column("nodes_count", sa.Integer(), nullable=False, comment="Top-level nodes"),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("workflows_external_id_check")),
        sa.CheckConstraint("length(title) <= 500", name=op.f("workflows_title_check")),
        sa.CheckConstraint("nodes_count >= 0", name=op.f("workflows_nodes_count_check")),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("workflows_source_id_fkey")),
        sa.PrimaryKeyConstraint("workflow_id", name=op.f("workflows_pkey")),
        sa.UniqueConstraint(
            "source_id",
            "external_id",
            deferrable=True,
            initially="IMMEDIATE",
            name=op.f("workflows_source_id_external_id_key"),
        ),
        schema="catalog",
        comment="One row a workflow graph",
    )
    op.create_index(
        op.f("workflows_graph_idx"),
        "workflows",
        ["graph"],
        unique=False,
        schema="catalog",
        postgresql_using="gin",
        postgresql_ops={"graph": "jsonb_path_ops"},
    )
    op.create_index(op.f("workflows_record_id_idx"), "workflows", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("workflows_source_id_idx"), "workflows", ["source_id"], unique=False, schema="catalog")
    op.create_table(
        "fetch_runs",
        sa.Column(
            "fetch_run_id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False, comment="Grows with time"
        ),
        sa.Column(
            "published",
            sa.BigInteger(),
            nullable=True,
            comment="Order in which runs became visible, drawn under the lock",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source of the run"),
        sa.Column("stream", sa.Text(), nullable=False, comment="What was landed or transformed: domain/source"),
        sa.Column("kind", sa.Text(), nullable=False, comment="land or transform"),
        sa.Column("asset_key", sa.Text(), nullable=False, comment="Dagster asset the run stands for"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Day that was landed or transformed"),
        sa.Column("dagster_run_id", sa.Text(), nullable=True, comment="Dagster run it was part of, if any"),
        sa.Column("status", sa.Text(), nullable=False, comment="How it stands"),
        sa.Column(
            "started_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Opened before any work",
        ),
        sa.Column(
            "ended_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="Closed, together with the data it published",
        ),
        sa.Column(
            "fetched",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads received, or rows yielded by the SELECTs",
        ),
        sa.Column(
            "created",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="New records, or rows inserted",
        ),
        sa.Column(
            "updated",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records or rows that changed",
        ),
        sa.Column(
            "unchanged",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records or rows that were already there, the same",
        ),
        sa.Column(
            "deleted",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Records or rows taken away; outside the sum of the others",
        ),
        sa.Column(
            "quarantined",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads or rows that are in staging.quarantine instead",
        ),
        sa.Column(
            "duplicates",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Payloads of a record that a later one supersedes; rows yielded twice",
        ),
        sa.Column(
            "cursor_from",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Where the fetch began, for sources that resume",
        ),
        sa.Column(
            "cursor_to",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Where the fetch ended, for sources that resume",
        ),
        sa.Column("code_version", sa.Text(), nullable=False, comment="Digest of the connector or of the SELECT files"),
        sa.Column(
            "stats",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="Bytes, skipped, counts a table, SQL digests",
        ),
        sa.Column("error_text", sa.Text(), nullable=True, comment="Why it failed"),
        sa.CheckConstraint(
            "(ended_at is null) = (status in ('pending', 'in_progress'))", name=op.f("fetch_runs_ended_check")
        ),
        sa.CheckConstraint("kind in ('land', 'transform')", name=op.f("fetch_runs_kind_check")),
        sa.CheckConstraint(
            "status in ('pending', 'in_progress', 'completed', 'failed', 'partial_success')",
            name=op.f("fetch_runs_status_check"),
        ),
        sa.CheckConstraint(
            "fetched = created + updated + unchanged + quarantined + duplicates",
            name=op.f("fetch_runs_conservation_check"),
        ),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("fetch_runs_source_id_fkey")),
        sa.PrimaryKeyConstraint("fetch_run_id", name=op.f("fetch_runs_pkey")),
        sa.UniqueConstraint("published", name=op.f("fetch_runs_published_key")),
        schema="ops",
        comment="The ledger: one row for each landing and each transform of a source's partition",
    )
    op.create_index(op.f("fetch_runs_dagster_run_id_idx"), "fetch_runs", ["dagster_run_id"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_source_id_idx"), "fetch_runs", ["source_id"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_started_at_idx"), "fetch_runs", ["started_at"], unique=False, schema="ops")
    op.create_index(op.f("fetch_runs_status_idx"), "fetch_runs", ["status"], unique=False, schema="ops")
    op.create_index(
        op.f("fetch_runs_stream_kind_partition_key_published_idx"),
        "fetch_runs",
        ["stream", "kind", "partition_key", "published"],
        unique=False,
        schema="ops",
    )
    op.create_table(
        "model_tags",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model"),
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="Tag"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("spelling", sa.Text(), nullable=True, comment="The tag as this model spells it"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("model_tags_model_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["catalog.tags.tag_id"], name=op.f("model_tags_tag_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "tag_id", name=op.f("model_tags_pkey")),
        schema="catalog",
        comment="One row a tag on a model",
    )
    op.create_index(op.f("model_tags_model_id_idx"), "model_tags", ["model_id"], unique=False, schema="catalog")
    op.create_index(op.f("model_tags_record_id_idx"), "model_tags", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("model_tags_tag_id_idx"), "model_tags", ["tag_id"], unique=False, schema="catalog")
    op.create_table(
        "model_versions",
        sa.Column("model_version_id", sa.UUID(), nullable=False, comment="ops.key(source, model, version)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model it is a version of"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column(
            "version_label", sa.Text(), nullable=False, comment="As published; repeated labels of a model are suffixed"
        ),
        sa.Column(
            "published_at", postgresql.TIMESTAMP(timezone=True), nullable=True, comment="When its publisher released it"
        ),
        sa.Column(
            "checksum", sa.Text(), nullable=True, comment="sha256 of its primary file, where the source gives it"
        ),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the source says beyond the columns, as it says it",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("model_versions_external_id_check")),
        sa.CheckConstraint("length(version_label) <= 255", name=op.f("model_versions_version_label_check")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("model_versions_model_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_version_id", name=op.f("model_versions_pkey")),
        sa.UniqueConstraint(
            "model_id",
            "version_label",
            deferrable=True,
            initially="IMMEDIATE",
            name=op.f("model_versions_model_id_version_label_key"),
        ),
        schema="catalog",
        comment="One row a version of a model",
    )
    op.create_index(op.f("model_versions_model_id_idx"), "model_versions", ["model_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("model_versions_record_id_idx"), "model_versions", ["record_id"], unique=False, schema="catalog"
    )
    op.create_table(
        "payloads",
        sa.Column(
            "payload_id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False, comment="Grows with time"
        ),
        sa.Column("fetch_run_id", sa.UUID(), nullable=False, comment="Run that wrote the body"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the bytes as received"),
        sa.Column(
            "body",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The payload, as the source sent it",
        ),
        sa.Column(
            "original",
            sa.LargeBinary(),
            nullable=True,
            comment="The exact bytes, where jsonb cannot hold the same value",
        ),
        sa.Column(
            "repairs",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="What had to be changed in body, where original is kept",
        ),
        sa.ForeignKeyConstraint(
            ["fetch_run_id"], ["ops.fetch_runs.fetch_run_id"], name=op.f("payloads_fetch_run_id_fkey")
        ),
        sa.PrimaryKeyConstraint("payload_id", name=op.f("payloads_pkey")),
        schema="staging",
        comment="Bodies, append-only; a body counts once a version names it",
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
        sa.Column("stage", sa.Text(), nullable=False, comment="land or transform"),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Day of the run that saw it first"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="The source's own id, where it could be read"),
        sa.Column(
            "record_id", sa.UUID(), nullable=True, comment="ops.key(stream, external_id), where it could be read"
        ),
        sa.Column("request", sa.Text(), nullable=True, comment="URL without secrets, or file:line"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Reason code"),
        sa.Column("detail", sa.Text(), nullable=False, comment="The reason in words"),
        sa.Column("path", sa.Text(), nullable=True, comment="JSON path of the value that is wrong"),
        sa.Column("byte_offset", sa.BigInteger(), nullable=True, comment="Byte at which the payload stops being JSON"),
        sa.Column("digest", sa.LargeBinary(), nullable=True, comment="sha256 of bytes"),
        sa.Column("bytes", sa.LargeBinary(), nullable=True, comment="The payload exactly as received"),
        sa.Column("table_name", sa.Text(), nullable=True, comment="Table the row was meant for"),
        sa.Column("row_key", sa.Text(), nullable=True, comment="Key of the row"),
        sa.Column("constraint_name", sa.Text(), nullable=True, comment="Constraint or column the row does not fit"),
        sa.Column(
            "row", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="The row as the SELECT yielded it"
        ),
        sa.Column("first_run", sa.UUID(), nullable=False, comment="Run that saw it first"),
        sa.Column("last_run", sa.UUID(), nullable=False, comment="Run that saw it last"),
        sa.Column("closed_run", sa.UUID(), nullable=True, comment="Run in which it landed or fitted after all"),
        sa.Column(
            "seen", sa.BigInteger(), server_default=sa.text("1"), nullable=False, comment="How often it was seen"
        ),
        sa.Column(
            "first_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Seen first",
        ),
        sa.Column(
            "last_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Seen last",
        ),
        sa.Column(
            "closed_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When it landed or fitted after all",
        ),
        sa.CheckConstraint(
            "stage <> 'land' or (digest is not null and bytes is not null)", name=op.f("quarantine_land_check")
        ),
        sa.CheckConstraint(
            "stage <> 'transform' or (table_name is not null and row_key is not null)",
            name=op.f("quarantine_transform_check"),
        ),
        sa.CheckConstraint("stage in ('land', 'transform')", name=op.f("quarantine_stage_check")),
        sa.CheckConstraint("(closed_at is null) = (closed_run is null)", name=op.f("quarantine_closed_check")),
        sa.ForeignKeyConstraint(
            ["closed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_closed_run_fkey")
        ),
        sa.ForeignKeyConstraint(["first_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_first_run_fkey")),
        sa.ForeignKeyConstraint(["last_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("quarantine_last_run_fkey")),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("quarantine_pkey")),
        schema="staging",
        comment="Whatever is not where it should be: payloads that did not land, rows that did not fit",
    )
    op.create_index(
        "quarantine_payload_key",
        "quarantine",
        ["stream", "digest"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("stage = 'land'"),
    )
    op.create_index(op.f("quarantine_record_id_idx"), "quarantine", ["record_id"], unique=False, schema="staging")
    op.create_index(
        "quarantine_row_key",
        "quarantine",
        ["stream", "record_id", "table_name", "row_key", "constraint_name"],
        unique=True,
        schema="staging",
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("stage = 'transform'"),
    )
    op.create_table(
        "artifacts",
        sa.Column("artifact_id", sa.UUID(), nullable=False, comment="ops.key(source, model, version, file)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("model_version_id", sa.UUID(), nullable=False, comment="Version it belongs to"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("kind", sa.Text(), nullable=False, comment="Unknown ones are Other; metadata has the original"),
        sa.Column("file_name", sa.Text(), nullable=False, comment="As published"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="As the source states it, rounded to bytes"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="Of the file's content, 64 lower hex digits"),
        sa.Column("url", sa.Text(), nullable=True, comment="Where it can be downloaded"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the source says beyond the columns, as it says it",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.CheckConstraint(
            "kind in ('Model', 'Config', 'TrainingData', 'Pruned', 'VAE', 'Other')", name=op.f("artifacts_kind_check")
        ),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("artifacts_sha256_check")),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("artifacts_external_id_check")),
        sa.CheckConstraint("length(file_name) <= 500", name=op.f("artifacts_file_name_check")),
        sa.CheckConstraint("length(url) <= 1000", name=op.f("artifacts_url_check")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("artifacts_size_bytes_check")),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["catalog.model_versions.model_version_id"],
            name=op.f("artifacts_model_version_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("artifact_id", name=op.f("artifacts_pkey")),
        schema="catalog",
        comment="One row a file of a model version; the same content twice in one version is one row",
    )
    op.create_index(
        op.f("artifacts_model_version_id_idx"), "artifacts", ["model_version_id"], unique=False, schema="catalog"
    )
    op.create_index(op.f("artifacts_record_id_idx"), "artifacts", ["record_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("artifacts_sha256_idx"), "artifacts", ["sha256"], unique=False, schema="catalog", postgresql_using="hash"
    )
    op.create_table(
        "images",
        sa.Column("image_id", sa.UUID(), nullable=False, comment="ops.key(source, image)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that published it"),
        sa.Column("model_id", sa.UUID(), nullable=True, comment="Model it shows"),
        sa.Column("model_version_id", sa.UUID(), nullable=True, comment="Version it shows"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="Of the file's content, 64 lower hex digits"),
        sa.Column("md5", sa.Text(), nullable=True, comment="Of the file's content, 32 lower hex digits"),
        sa.Column("preview_url", sa.Text(), nullable=True, comment="A smaller rendering"),
        sa.Column("url", sa.Text(), nullable=True, comment="The image itself"),
        sa.Column("width", sa.Integer(), nullable=True, comment="Pixels"),
        sa.Column("height", sa.Integer(), nullable=True, comment="Pixels"),
        sa.Column("rating", sa.Text(), nullable=False, comment="Over all sources alike"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the source says beyond the columns, as it says it",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint("md5 ~ '^[0-9a-f]{32}$'", name=op.f("images_md5_check")),
        sa.CheckConstraint(
            "rating in ('Safe', 'Questionable', 'Explicit', 'Unknown')", name=op.f("images_rating_check")
        ),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("images_sha256_check")),
        sa.CheckConstraint("height > 0", name=op.f("images_height_check")),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("images_external_id_check")),
        sa.CheckConstraint("width > 0", name=op.f("images_width_check")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("images_model_id_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["catalog.model_versions.model_version_id"],
            name=op.f("images_model_version_id_fkey"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("images_source_id_fkey")),
        sa.PrimaryKeyConstraint("image_id", name=op.f("images_pkey")),
        sa.UniqueConstraint(
            "source_id",
            "external_id",
            deferrable=True,
            initially="IMMEDIATE",
            name=op.f("images_source_id_external_id_key"),
        ),
        schema="catalog",
        comment="One row an image of a source",
    )
    op.create_index(op.f("images_model_id_idx"), "images", ["model_id"], unique=False, schema="catalog")
    op.create_index(op.f("images_model_version_id_idx"), "images", ["model_version_id"], unique=False, schema="catalog")
    op.create_index(op.f("images_record_id_idx"), "images", ["record_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("images_sha256_idx"), "images", ["sha256"], unique=False, schema="catalog", postgresql_using="hash"
    )
    op.create_index(op.f("images_source_id_idx"), "images", ["source_id"], unique=False, schema="catalog")
    op.create_table(
        "versions",
        sa.Column(
            "version_id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of publishing"
        ),
        sa.Column("stream", sa.Text(), nullable=False, comment="domain/source"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id of the record"),
        sa.Column("record_id", sa.UUID(), nullable=False, comment="ops.key(stream, external_id)"),
        sa.Column("payload_id", sa.UUID(), nullable=True, comment="Body; null = a tombstone"),
        sa.Column("digest", sa.LargeBinary(), nullable=True, comment="sha256 of the bytes as received"),
        sa.Column(
            "version_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="The source's modification time, else its last fetch",
        ),
        sa.Column("fetched_at", postgresql.TIMESTAMP(timezone=True), nullable=False, comment="When it was received"),
        sa.Column("request", sa.Text(), nullable=False, comment="URL without secrets, or file:line"),
        sa.Column("partition_key", sa.Text(), nullable=False, comment="Day under which it was fetched"),
        sa.Column("landed_run", sa.UUID(), nullable=False, comment="Landing that published it"),
        sa.Column("latest", sa.Boolean(), nullable=False, comment="What the source says now"),
        sa.Column("from_run", sa.UUID(), nullable=True, comment="Transform that took it into the tables"),
        sa.Column("to_run", sa.UUID(), nullable=True, comment="Transform that took it out of the tables"),
        sa.CheckConstraint("(payload_id is null) = (digest is null)", name=op.f("versions_tombstone_check")),
        sa.ForeignKeyConstraint(["from_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_from_run_fkey")),
        sa.ForeignKeyConstraint(["landed_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_landed_run_fkey")),
        sa.ForeignKeyConstraint(["payload_id"], ["staging.payloads.payload_id"], name=op.f("versions_payload_id_fkey")),
        sa.ForeignKeyConstraint(["to_run"], ["ops.fetch_runs.fetch_run_id"], name=op.f("versions_to_run_fkey")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("versions_pkey")),
        schema="staging",
        comment="One row a version of a record: what was received when, and which transforms took it in and out",
    )
    op.create_index(
        "versions_in_force_key",
        "versions",
        ["record_id"],
        unique=True,
        schema="staging",
        postgresql_where=sa.text("from_run is not null and to_run is null"),
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
        ["stream", "partition_key"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("latest"),
    )
    op.create_index(op.f("versions_payload_id_idx"), "versions", ["payload_id"], unique=False, schema="staging")
    op.create_index(op.f("versions_record_id_idx"), "versions", ["record_id"], unique=False, schema="staging")
    op.create_index(
        "versions_waiting_idx",
        "versions",
        ["stream", "partition_key"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("latest and from_run is null"),
    )
    op.create_table(
        "image_tags",
        sa.Column("image_id", sa.UUID(), nullable=False, comment="Image"),
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="Tag"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("spelling", sa.Text(), nullable=True, comment="The tag as this image spells it"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["catalog.images.image_id"], name=op.f("image_tags_image_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["catalog.tags.tag_id"], name=op.f("image_tags_tag_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "tag_id", name=op.f("image_tags_pkey")),
        schema="catalog",
        comment="One row a tag on an image",
    )
    op.create_index(op.f("image_tags_image_id_idx"), "image_tags", ["image_id"], unique=False, schema="catalog")
    op.create_index(op.f("image_tags_record_id_idx"), "image_tags", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("image_tags_tag_id_idx"), "image_tags", ["tag_id"], unique=False, schema="catalog")
    op.create_table(
        "prompts",
        sa.Column("prompt_id", sa.UUID(), nullable=False, comment="ops.key of the place it was found in"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record (stream, external id) the row was derived from; staging.versions holds its proof",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that published it"),
        sa.Column("model_id", sa.UUID(), nullable=True, comment="Model it was written for"),
        sa.Column("model_version_id", sa.UUID(), nullable=True, comment="Version it was written for"),
        sa.Column("workflow_id", sa.UUID(), nullable=True, comment="Workflow it is part of"),
        sa.Column("image_id", sa.UUID(), nullable=True, comment="Image it made"),
        sa.Column("text", sa.Text(), nullable=False, comment="The prompt"),
        sa.Column("negative_text", sa.Text(), nullable=True, comment="What the image should not show"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the source says beyond the columns, as it says it",
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["catalog.images.image_id"], name=op.f("prompts_image_id_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("prompts_model_id_fkey"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["catalog.model_versions.model_version_id"],
            name=op.f("prompts_model_version_id_fkey"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("prompts_source_id_fkey")),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            ["catalog.workflows.workflow_id"],
            name=op.f("prompts_workflow_id_fkey"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("prompt_id", name=op.f("prompts_pkey")),
        schema="catalog",
        comment="One row a prompt, from image metadata or from a text-encoder node",
    )
    op.create_index(op.f("prompts_image_id_idx"), "prompts", ["image_id"], unique=False, schema="catalog")
    op.create_index(op.f("prompts_model_id_idx"), "prompts", ["model_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("prompts_model_version_id_idx"), "prompts", ["model_version_id"], unique=False, schema="catalog"
    )
    op.create_index(op.f("prompts_record_id_idx"), "prompts", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("prompts_source_id_idx"), "prompts", ["source_id"], unique=False, schema="catalog")
    op.create_index(op.f("prompts_workflow_id_idx"), "prompts", ["workflow_id"], unique=False, schema="catalog")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"drop table {table}")
    op.execute("drop sequence ops.published")
    op.execute("drop function ops.tag_name(text)")
    for arity in range(1, len(PARAMETERS) + 1):
        op.execute(f"drop function ops.key({', '.join(['text'] * arity)})")
    for schema in reversed(SCHEMAS):
        op.execute(f"drop schema {schema}")
