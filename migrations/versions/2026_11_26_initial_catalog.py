"""Initial migration of the schema `catalog`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_initial_catalog"
down_revision = "2026_11_26_initial_marts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema catalog")
    op.execute("comment on schema catalog is 'Models and media: what exists, where it is published, how it was made'")

    op.create_table(
        "models",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="ops.key(source, external id)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that publishes it"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("name", sa.Text(), nullable=False, comment="Name as published"),
        sa.Column(
            "type", sa.Text(), nullable=False, comment="Type of model; unknown ones are Other, raw has the original"
        ),
        sa.Column("description", sa.Text(), nullable=True, comment="Description as published, HTML or Markdown"),
        sa.Column("nsfw_rating", sa.Text(), nullable=False, comment="Rating on one scale for all sources"),
        sa.Column(
            "raw",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The payload without the parts that are rows of other tables",
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
            name=op.f("models_source_id_external_id_key"),
            postgresql_nulls_not_distinct=None,
        ),
        schema="catalog",
        comment="One row per model of a source",
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
        sa.Column("source_id", sa.UUID(), nullable=True, comment="Source that publishes it"),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="Readable form; the spelling used is in the table that links it"
        ),
        sa.Column("normalized_name", sa.Text(), nullable=False, comment="ops.tag_name(name)"),
        sa.Column(
            "category",
            sa.Text(),
            nullable=True,
            comment="Category that its name states, such as license in license:mit",
        ),
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
            name=op.f("tags_normalized_name_source_id_key"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="catalog",
        comment="One row per tag of a source, shared by what is tagged",
    )
    op.create_index(op.f("tags_normalized_name_idx"), "tags", ["normalized_name"], unique=False, schema="catalog")
    op.create_index(op.f("tags_source_id_idx"), "tags", ["source_id"], unique=False, schema="catalog")
    op.create_table(
        "tag_definitions",
        sa.Column("tag_definition_id", sa.UUID(), nullable=False, comment="ops.key(source, 'tag', external id)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that publishes it"),
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="Tag that it defines"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("name", sa.Text(), nullable=False, comment="Name as published"),
        sa.Column(
            "category", sa.Text(), nullable=True, comment="Category by the source, in words where they are known"
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was first written",
        ),
        sa.CheckConstraint("length(external_id) <= 255", name=op.f("tag_definitions_external_id_check")),
        sa.CheckConstraint("length(name) <= 255", name=op.f("tag_definitions_name_check")),
        sa.ForeignKeyConstraint(["source_id"], ["ops.sources.source_id"], name=op.f("tag_definitions_source_id_fkey")),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["catalog.tags.tag_id"], name=op.f("tag_definitions_tag_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tag_definition_id", name=op.f("tag_definitions_pkey")),
        schema="catalog",
        comment="One row per tag that a source publishes as a record of its own",
    )
    for column in ("record_id", "source_id", "tag_id"):
        op.create_index(
            op.f(f"tag_definitions_{column}_idx"), "tag_definitions", [column], unique=False, schema="catalog"
        )
    op.create_table(
        "workflows",
        sa.Column("workflow_id", sa.UUID(), nullable=False, comment="ops.key(source, external id)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that publishes it"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("title", sa.Text(), nullable=True, comment="Title, else the name of the file"),
        sa.Column(
            "graph",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The graph, in UI format (nodes, links) or API format (numbered nodes)",
        ),
        sa.Column("nodes_count", sa.Integer(), nullable=False, comment="Number of top-level nodes"),
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
            name=op.f("workflows_source_id_external_id_key"),
            postgresql_nulls_not_distinct=None,
        ),
        schema="catalog",
        comment="One row per workflow",
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
        "model_stats",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model"),
        sa.Column(
            "observed_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the counters were received",
        ),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("downloads", sa.BigInteger(), nullable=True, comment="Downloads as the source counts them"),
        sa.Column("likes", sa.BigInteger(), nullable=True, comment="Likes"),
        sa.Column("rating", sa.Numeric(), nullable=True, comment="Mean rating, if the source has one"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Further fields of the payload, as the source sends them",
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("model_stats_model_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "observed_at", name=op.f("model_stats_pkey")),
        schema="catalog",
        comment="One row per model and time at which its counters changed",
    )
    op.create_index(op.f("model_stats_record_id_idx"), "model_stats", ["record_id"], unique=False, schema="catalog")
    op.create_table(
        "model_tags",
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model"),
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="Tag"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("spelling", sa.Text(), nullable=True, comment="The tag as spelled on this model"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["catalog.models.model_id"], name=op.f("model_tags_model_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["catalog.tags.tag_id"], name=op.f("model_tags_tag_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "tag_id", name=op.f("model_tags_pkey")),
        schema="catalog",
        comment="One row per model and tag",
    )
    op.create_index(op.f("model_tags_model_id_idx"), "model_tags", ["model_id"], unique=False, schema="catalog")
    op.create_index(op.f("model_tags_record_id_idx"), "model_tags", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("model_tags_tag_id_idx"), "model_tags", ["tag_id"], unique=False, schema="catalog")
    op.create_table(
        "model_versions",
        sa.Column(
            "model_version_id",
            sa.UUID(),
            nullable=False,
            comment="ops.key(source, version), or (source, model, version) where only models have ids",
        ),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("model_id", sa.UUID(), nullable=False, comment="Model it is a version of"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column(
            "version_label",
            sa.Text(),
            nullable=False,
            comment="Label as published; labels that a model repeats get a suffix",
        ),
        sa.Column("published_at", postgresql.TIMESTAMP(timezone=True), nullable=True, comment="When it was published"),
        sa.Column("checksum", sa.Text(), nullable=True, comment="sha256 of its primary file, if the source states it"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Further fields of the payload, as the source sends them",
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
            name=op.f("model_versions_model_id_version_label_key"),
            postgresql_nulls_not_distinct=None,
        ),
        schema="catalog",
        comment="One row per version of a model",
    )
    op.create_index(op.f("model_versions_model_id_idx"), "model_versions", ["model_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("model_versions_record_id_idx"), "model_versions", ["record_id"], unique=False, schema="catalog"
    )
    op.create_table(
        "artifacts",
        sa.Column("artifact_id", sa.UUID(), nullable=False, comment="ops.key(source, model or version, file)"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("model_version_id", sa.UUID(), nullable=False, comment="Version it belongs to"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="Kind of file; unknown ones are Other, metadata has the original"
        ),
        sa.Column("file_name", sa.Text(), nullable=False, comment="File name as published"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="Size as the source states it, in bytes"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="sha256 of the file's content, lower hex"),
        sa.Column("url", sa.Text(), nullable=True, comment="Address of the download"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Further fields of the payload, as the source sends them",
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
        comment="One row per file of a model version; files of one version with equal content are one row",
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
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that publishes it"),
        sa.Column("model_id", sa.UUID(), nullable=True, comment="Model that made it, if the source names it"),
        sa.Column("model_version_id", sa.UUID(), nullable=True, comment="Version that made it, if the source names it"),
        sa.Column("external_id", sa.Text(), nullable=False, comment="The source's own id"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="sha256 of the file's content, lower hex"),
        sa.Column("md5", sa.Text(), nullable=True, comment="md5 of the file's content, lower hex"),
        sa.Column("preview_url", sa.Text(), nullable=True, comment="Address of a smaller rendering"),
        sa.Column("url", sa.Text(), nullable=True, comment="Address of the image"),
        sa.Column("width", sa.Integer(), nullable=True, comment="In pixels"),
        sa.Column("height", sa.Integer(), nullable=True, comment="In pixels"),
        sa.Column("rating", sa.Text(), nullable=False, comment="Rating on one scale for all sources"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Further fields of the payload, as the source sends them",
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
            name=op.f("images_source_id_external_id_key"),
            postgresql_nulls_not_distinct=None,
        ),
        schema="catalog",
        comment="One row per image of a source",
    )
    op.create_index(op.f("images_model_id_idx"), "images", ["model_id"], unique=False, schema="catalog")
    op.create_index(op.f("images_model_version_id_idx"), "images", ["model_version_id"], unique=False, schema="catalog")
    op.create_index(op.f("images_record_id_idx"), "images", ["record_id"], unique=False, schema="catalog")
    op.create_index(
        op.f("images_sha256_idx"), "images", ["sha256"], unique=False, schema="catalog", postgresql_using="hash"
    )
    op.create_index(op.f("images_source_id_idx"), "images", ["source_id"], unique=False, schema="catalog")
    op.create_table(
        "image_tags",
        sa.Column("image_id", sa.UUID(), nullable=False, comment="Image"),
        sa.Column("tag_id", sa.UUID(), nullable=False, comment="Tag"),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("spelling", sa.Text(), nullable=True, comment="The tag as spelled on this image"),
        sa.Column("category", sa.Text(), nullable=True, comment="Category under which the image lists the tag"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["catalog.images.image_id"], name=op.f("image_tags_image_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["catalog.tags.tag_id"], name=op.f("image_tags_tag_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "tag_id", name=op.f("image_tags_pkey")),
        schema="catalog",
        comment="One row per image and tag",
    )
    op.create_index(op.f("image_tags_image_id_idx"), "image_tags", ["image_id"], unique=False, schema="catalog")
    op.create_index(op.f("image_tags_record_id_idx"), "image_tags", ["record_id"], unique=False, schema="catalog")
    op.create_index(op.f("image_tags_tag_id_idx"), "image_tags", ["tag_id"], unique=False, schema="catalog")
    op.create_table(
        "prompts",
        sa.Column(
            "prompt_id",
            sa.UUID(),
            nullable=False,
            comment="ops.key of where it was found: an image, a node of a workflow, a model",
        ),
        sa.Column(
            "record_id",
            sa.UUID(),
            nullable=False,
            comment="Record that the row is derived from; its versions are in staging.versions",
        ),
        sa.Column("source_id", sa.UUID(), nullable=False, comment="Source that publishes it"),
        sa.Column("model_id", sa.UUID(), nullable=True, comment="Model it was written for"),
        sa.Column("model_version_id", sa.UUID(), nullable=True, comment="Version it was written for"),
        sa.Column("workflow_id", sa.UUID(), nullable=True, comment="Workflow it is part of"),
        sa.Column("image_id", sa.UUID(), nullable=True, comment="Image that was made with it"),
        sa.Column("text", sa.Text(), nullable=False, comment="The prompt"),
        sa.Column("negative_text", sa.Text(), nullable=True, comment="The negative prompt"),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Further fields of the payload, as the source sends them",
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
        comment="One row per prompt, from image metadata or from a text-encoder node",
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
    op.drop_index(op.f("prompts_workflow_id_idx"), table_name="prompts", schema="catalog")
    op.drop_index(op.f("prompts_source_id_idx"), table_name="prompts", schema="catalog")
    op.drop_index(op.f("prompts_record_id_idx"), table_name="prompts", schema="catalog")
    op.drop_index(op.f("prompts_model_version_id_idx"), table_name="prompts", schema="catalog")
    op.drop_index(op.f("prompts_model_id_idx"), table_name="prompts", schema="catalog")
    op.drop_index(op.f("prompts_image_id_idx"), table_name="prompts", schema="catalog")
    op.drop_table("prompts", schema="catalog")
    op.drop_index(op.f("image_tags_tag_id_idx"), table_name="image_tags", schema="catalog")
    op.drop_index(op.f("image_tags_record_id_idx"), table_name="image_tags", schema="catalog")
    op.drop_index(op.f("image_tags_image_id_idx"), table_name="image_tags", schema="catalog")
    op.drop_table("image_tags", schema="catalog")
    op.drop_index(op.f("images_source_id_idx"), table_name="images", schema="catalog")
    op.drop_index(op.f("images_sha256_idx"), table_name="images", schema="catalog", postgresql_using="hash")
    op.drop_index(op.f("images_record_id_idx"), table_name="images", schema="catalog")
    op.drop_index(op.f("images_model_version_id_idx"), table_name="images", schema="catalog")
    op.drop_index(op.f("images_model_id_idx"), table_name="images", schema="catalog")
    op.drop_table("images", schema="catalog")
    op.drop_index(op.f("artifacts_sha256_idx"), table_name="artifacts", schema="catalog", postgresql_using="hash")
    op.drop_index(op.f("artifacts_record_id_idx"), table_name="artifacts", schema="catalog")
    op.drop_index(op.f("artifacts_model_version_id_idx"), table_name="artifacts", schema="catalog")
    op.drop_table("artifacts", schema="catalog")
    op.drop_index(op.f("model_versions_record_id_idx"), table_name="model_versions", schema="catalog")
    op.drop_index(op.f("model_versions_model_id_idx"), table_name="model_versions", schema="catalog")
    op.drop_table("model_versions", schema="catalog")
    op.drop_index(op.f("model_tags_tag_id_idx"), table_name="model_tags", schema="catalog")
    op.drop_index(op.f("model_tags_record_id_idx"), table_name="model_tags", schema="catalog")
    op.drop_index(op.f("model_tags_model_id_idx"), table_name="model_tags", schema="catalog")
    op.drop_table("model_tags", schema="catalog")
    op.drop_index(op.f("model_stats_record_id_idx"), table_name="model_stats", schema="catalog")
    op.drop_table("model_stats", schema="catalog")
    op.drop_index(op.f("workflows_source_id_idx"), table_name="workflows", schema="catalog")
    op.drop_index(op.f("workflows_record_id_idx"), table_name="workflows", schema="catalog")
    op.drop_index(
        op.f("workflows_graph_idx"),
        table_name="workflows",
        schema="catalog",
        postgresql_using="gin",
        postgresql_ops={"graph": "jsonb_path_ops"},
    )
    op.drop_table("workflows", schema="catalog")
    op.drop_table("tag_definitions", schema="catalog")
    op.drop_index(op.f("tags_source_id_idx"), table_name="tags", schema="catalog")
    op.drop_index(op.f("tags_normalized_name_idx"), table_name="tags", schema="catalog")
    op.drop_table("tags", schema="catalog")
    op.drop_index(op.f("models_type_idx"), table_name="models", schema="catalog")
    op.drop_index(op.f("models_source_id_idx"), table_name="models", schema="catalog")
    op.drop_index(op.f("models_record_id_idx"), table_name="models", schema="catalog")
    op.drop_index(
        op.f("models_raw_idx"),
        table_name="models",
        schema="catalog",
        postgresql_using="gin",
        postgresql_ops={"raw": "jsonb_path_ops"},
    )
    op.drop_index(op.f("models_created_at_idx"), table_name="models", schema="catalog")
    op.drop_table("models", schema="catalog")

    op.execute("drop schema catalog")
