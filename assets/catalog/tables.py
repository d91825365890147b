"""Tables of the catalogue: models, their versions and files, images, workflows, prompts, and their tags."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from pipelines.schema.declare import (
    Timestamp,
    created_column,
    declare_schema,
    limited_text,
    one_of,
    owned,
    shared,
    unique,
    updated_column,
)

declare_schema("catalog", "Models and media: what exists, where it is published, how it was made")

MODEL_TYPES = (
    "Checkpoint",
    "TextualInversion",
    "Hypernetwork",
    "AestheticGradient",
    "LORA",
    "Controlnet",
    "Poses",
    "VAE",
    "LLM",
    "Other",
)
ARTIFACT_KINDS = ("Model", "Config", "TrainingData", "Pruned", "VAE", "Other")
RATINGS = ("Safe", "Questionable", "Explicit", "Unknown")


def _key(name: str, comment: str) -> Column[object]:
    return Column(name, UUID, primary_key=True, comment=comment)


def _source(*, nullable: bool = False) -> Column[object]:
    return Column(
        "source_id",
        UUID,
        ForeignKey("ops.sources.source_id"),
        nullable=nullable,
        index=True,
        comment="Source that publishes it",
    )


def _parent(column: str, target: str, comment: str, *, nullable: bool = False) -> Column[object]:
    action = "SET NULL" if nullable else "CASCADE"
    return Column(
        column, UUID, ForeignKey(f"catalog.{target}", ondelete=action), nullable=nullable, index=True, comment=comment
    )


def _external_id() -> tuple[Column[object], CheckConstraint]:
    return limited_text("external_id", 255, nullable=False, comment="The source's own id")


def _metadata() -> Column[object]:
    return Column("metadata", JSONB, comment="Further fields of the payload, as the source sends them")


def _sha256() -> tuple[Column[object], CheckConstraint]:
    return Column(
        "sha256",
        Text,
        comment="sha256 of the file's content, lower hex",
    ), CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256")


models = owned(
    "catalog.models",
    _key("model_id", "ops.key(source, external id)"),
    _source(),
    *_external_id(),
    *limited_text("name", 500, nullable=False, comment="Name as published"),
    Column(
        "type",
        Text,
        nullable=False,
        comment="Type of model; unknown ones are Other, raw has the original",
    ),
    one_of("type", MODEL_TYPES),
    Column("description", Text, comment="Description as published, HTML or Markdown"),
    Column("nsfw_rating", Text, nullable=False, comment="Rating on one scale for all sources"),
    one_of("nsfw_rating", RATINGS),
    Column("raw", JSONB, nullable=False, comment="The payload without the parts that are rows of other tables"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "type"),
    Index(None, "created_at"),
    Index(None, "raw", postgresql_using="gin", postgresql_ops={"raw": "jsonb_path_ops"}),
    comment="One row per model of a source",
)

model_versions = owned(
    "catalog.model_versions",
    _key("model_version_id", "ops.key(source, version), or (source, model, version) where only models have ids"),
    _parent("model_id", "models.model_id", "Model it is a version of"),
    *_external_id(),
    *limited_text(
        "version_label", 255, nullable=False, comment="Label as published; labels that a model repeats get a suffix"
    ),
    Column("published_at", Timestamp, comment="When it was published"),
    Column("checksum", Text, comment="sha256 of its primary file, if the source states it"),
    _metadata(),
    created_column(),
    unique("model_id", "version_label"),
    comment="One row per version of a model",
)

tags = shared(
    "catalog.tags",
    _key("tag_id", "ops.key(source, normalized name)"),
    _source(nullable=True),
    *limited_text(
        "name", 255, nullable=False, comment="Readable form; the spelling used is in the table that links it"
    ),
    *limited_text("normalized_name", 255, nullable=False, index=True, comment="ops.tag_name(name)"),
    Column("category", Text, comment="Category that its name states, such as license in license:mit"),
    created_column(),
    unique("normalized_name", "source_id", nulls_not_distinct=True),
    comment="One row per tag of a source, shared by what is tagged",
)

tag_definitions = owned(
    "catalog.tag_definitions",
    _key("tag_definition_id", "ops.key(source, 'tag', external id)"),
    _source(),
    _parent("tag_id", "tags.tag_id", "Tag that it defines"),
    *_external_id(),
    *limited_text("name", 255, nullable=False, comment="Name as published"),
    Column("category", Text, comment="Category by the source, in words where they are known"),
    created_column(),
    comment="One row per tag that a source publishes as a record of its own",
)

model_tags = owned(
    "catalog.model_tags",
    Column(
        "model_id",
        UUID,
        ForeignKey("catalog.models.model_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        comment="Model",
    ),
    Column(
        "tag_id",
        UUID,
        ForeignKey("catalog.tags.tag_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        comment="Tag",
    ),
    Column("spelling", Text, comment="The tag as spelled on this model"),
    comment="One row per model and tag",
)

model_stats = owned(
    "catalog.model_stats",
    Column(
        "model_id",
        UUID,
        ForeignKey("catalog.models.model_id", ondelete="CASCADE"),
        primary_key=True,
        comment="Model",
    ),
    Column("observed_at", Timestamp, primary_key=True, comment="When the counters were received"),
    Column("downloads", BigInteger, comment="Downloads as the source counts them"),
    Column("likes", BigInteger, comment="Likes"),
    Column("rating", Numeric, comment="Mean rating, if the source has one"),
    _metadata(),
    comment="One row per model and time at which its counters changed",
)

artifacts = owned(
    "catalog.artifacts",
    _key("artifact_id", "ops.key(source, model or version, file)"),
    _parent("model_version_id", "model_versions.model_version_id", "Version it belongs to"),
    *_external_id(),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="Kind of file; unknown ones are Other, metadata has the original",
    ),
    one_of("kind", ARTIFACT_KINDS),
    *limited_text("file_name", 500, nullable=False, comment="File name as published"),
    Column(
        "size_bytes",
        BigInteger,
        comment="Size as the source states it, in bytes",
    ),
    CheckConstraint("size_bytes >= 0", name="size_bytes"),
    *_sha256(),
    *limited_text("url", 1000, comment="Address of the download"),
    _metadata(),
    created_column(),
    Index(None, "sha256", postgresql_using="hash"),
    comment="One row per file of a model version; files of one version with equal content are one row",
)

images = owned(
    "catalog.images",
    _key("image_id", "ops.key(source, image)"),
    _source(),
    _parent("model_id", "models.model_id", "Model that made it, if the source names it", nullable=True),
    _parent(
        "model_version_id",
        "model_versions.model_version_id",
        "Version that made it, if the source names it",
        nullable=True,
    ),
    *_external_id(),
    *_sha256(),
    Column(
        "md5",
        Text,
        comment="md5 of the file's content, lower hex",
    ),
    CheckConstraint("md5 ~ '^[0-9a-f]{32}$'", name="md5"),
    Column("preview_url", Text, comment="Address of a smaller rendering"),
    Column("url", Text, comment="Address of the image"),
    Column("width", Integer, comment="In pixels"),
    CheckConstraint("width > 0", name="width"),
    Column("height", Integer, comment="In pixels"),
    CheckConstraint("height > 0", name="height"),
    Column("rating", Text, nullable=False, comment="Rating on one scale for all sources"),
    one_of("rating", RATINGS),
    _metadata(),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "sha256", postgresql_using="hash"),
    comment="One row per image of a source",
)

image_tags = owned(
    "catalog.image_tags",
    Column(
        "image_id",
        UUID,
        ForeignKey("catalog.images.image_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        comment="Image",
    ),
    Column(
        "tag_id",
        UUID,
        ForeignKey("catalog.tags.tag_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        comment="Tag",
    ),
    Column("spelling", Text, comment="The tag as spelled on this image"),
    Column("category", Text, comment="Category under which the image lists the tag"),
    comment="One row per image and tag",
)

workflows = owned(
    "catalog.workflows",
    _key("workflow_id", "ops.key(source, external id)"),
    _source(),
    *_external_id(),
    *limited_text("title", 500, comment="Title, else the name of the file"),
    Column(
        "graph", JSONB, nullable=False, comment="The graph, in UI format (nodes, links) or API format (numbered nodes)"
    ),
    Column(
        "nodes_count",
        Integer,
        nullable=False,
        comment="Number of top-level nodes",
    ),
    CheckConstraint("nodes_count >= 0", name="nodes_count"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "graph", postgresql_using="gin", postgresql_ops={"graph": "jsonb_path_ops"}),
    comment="One row per workflow",
)

prompts = owned(
    "catalog.prompts",
    _key("prompt_id", "ops.key of where it was found: an image, a node of a workflow, a model"),
    _source(),
    _parent("model_id", "models.model_id", "Model it was written for", nullable=True),
    _parent("model_version_id", "model_versions.model_version_id", "Version it was written for", nullable=True),
    _parent("workflow_id", "workflows.workflow_id", "Workflow it is part of", nullable=True),
    _parent("image_id", "images.image_id", "Image that was made with it", nullable=True),
    Column("text", Text, nullable=False, comment="The prompt"),
    Column("negative_text", Text, comment="The negative prompt"),
    _metadata(),
    created_column(),
    comment="One row per prompt, from image metadata or from a text-encoder node",
)
