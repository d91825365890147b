"""The tables of the catalogue: models, their versions and files, media, workflows and prompts, and the tags on them."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from pipelines.warehouse.declare import (
    Timestamp,
    created_column,
    domain_schema,
    limited,
    metadata,
    one_of,
    record_column,
    unique,
    updated_column,
)

SCHEMA = domain_schema("catalog", "Models and media: what exists, where it is published, what it was made with")

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
        comment="Source that published it",
    )


def _parent(column: str, target: str, comment: str, *, nullable: bool = False) -> Column[object]:
    action = "SET NULL" if nullable else "CASCADE"
    return Column(
        column, UUID, ForeignKey(f"catalog.{target}", ondelete=action), nullable=nullable, index=True, comment=comment
    )


def _external_id() -> tuple[Column[object], CheckConstraint]:
    return limited("external_id", 255, nullable=False, comment="The source's own id")


def _metadata() -> Column[object]:
    return Column("metadata", JSONB, comment="What the source says beyond the columns, as it says it")


def _sha256() -> tuple[Column[object], CheckConstraint]:
    return Column(
        "sha256",
        Text,
        comment="Of the file's content, 64 lower hex digits",
    ), CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256")


models = Table(
    "models",
    metadata,
    _key("model_id", "ops.key(source, external id)"),
    record_column(),
    _source(),
    *_external_id(),
    *limited("name", 500, nullable=False, comment="As its publisher calls it"),
    Column(
        "type",
        Text,
        nullable=False,
        comment="Unknown ones are Other; raw has the original",
    ),
    one_of("type", MODEL_TYPES),
    Column("description", Text, comment="As published, HTML or Markdown"),
    Column("nsfw_rating", Text, nullable=False, comment="Over all sources alike"),
    one_of("nsfw_rating", RATINGS),
    Column("raw", JSONB, nullable=False, comment="The payload less the parts that became rows of their own"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "type"),
    Index(None, "created_at"),
    Index(None, "raw", postgresql_using="gin", postgresql_ops={"raw": "jsonb_path_ops"}),
    schema=SCHEMA,
    comment="One row a model of a source",
)

model_versions = Table(
    "model_versions",
    metadata,
    _key("model_version_id", "ops.key(source, version), or (source, model, version) where only models have ids"),
    record_column(),
    _parent("model_id", "models.model_id", "Model it is a version of"),
    *_external_id(),
    *limited("version_label", 255, nullable=False, comment="As published; repeated labels of a model are suffixed"),
    Column("published_at", Timestamp, comment="When its publisher released it"),
    Column("checksum", Text, comment="sha256 of its primary file, where the source gives it"),
    _metadata(),
    created_column(),
    unique("model_id", "version_label"),
    schema=SCHEMA,
    comment="One row a version of a model",
)

tags = Table(
    "tags",
    metadata,
    _key("tag_id", "ops.key(source, normalized name)"),
    _source(nullable=True),
    *limited("name", 255, nullable=False, comment="Readable form; the spelling used is on the row that links it"),
    *limited("normalized_name", 255, nullable=False, index=True, comment="ops.tag_name(name)"),
    Column("category", Text, comment="The source's own class of tag"),
    created_column(),
    record_column(nullable=True),
    unique("normalized_name", "source_id", nulls_not_distinct=True),
    schema=SCHEMA,
    comment="One row a tag of a source, shared by all that carry it; owned by the tag's own record where there is one",
)

model_tags = Table(
    "model_tags",
    metadata,
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
    record_column(),
    Column("spelling", Text, comment="The tag as this model spells it"),
    schema=SCHEMA,
    comment="One row a tag on a model",
)

model_stats = Table(
    "model_stats",
    metadata,
    Column(
        "model_id",
        UUID,
        ForeignKey("catalog.models.model_id", ondelete="CASCADE"),
        primary_key=True,
        comment="Model",
    ),
    Column("observed_at", Timestamp, primary_key=True, comment="When the source said so"),
    record_column(),
    Column("downloads", BigInteger, comment="As the source counts them"),
    Column("likes", BigInteger, comment="Likes, thumbs up"),
    Column("rating", Numeric, comment="Mean rating, where the source has one"),
    _metadata(),
    schema=SCHEMA,
    comment="One row a model and time at which its counters had changed",
)

artifacts = Table(
    "artifacts",
    metadata,
    _key("artifact_id", "ops.key of its version's key parts and the file"),
    record_column(),
    _parent("model_version_id", "model_versions.model_version_id", "Version it belongs to"),
    *_external_id(),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="Unknown ones are Other; metadata has the original",
    ),
    one_of("kind", ARTIFACT_KINDS),
    *limited("file_name", 500, nullable=False, comment="As published"),
    Column(
        "size_bytes",
        BigInteger,
        comment="As the source states it, rounded to bytes",
    ),
    CheckConstraint("size_bytes >= 0", name="size_bytes"),
    *_sha256(),
    *limited("url", 1000, comment="Where it can be downloaded"),
    _metadata(),
    created_column(),
    Index(None, "sha256", postgresql_using="hash"),
    schema=SCHEMA,
    comment="One row a file of a model version; the same content twice in one version is one row",
)

images = Table(
    "images",
    metadata,
    _key("image_id", "ops.key(source, image)"),
    record_column(),
    _source(),
    _parent("model_id", "models.model_id", "Model it shows, where the source names it", nullable=True),
    _parent("model_version_id", "model_versions.model_version_id", "Version it shows", nullable=True),
    *_external_id(),
    *_sha256(),
    Column(
        "md5",
        Text,
        comment="Of the file's content, 32 lower hex digits",
    ),
    CheckConstraint("md5 ~ '^[0-9a-f]{32}$'", name="md5"),
    Column("preview_url", Text, comment="A smaller rendering"),
    Column("url", Text, comment="The image itself"),
    Column("width", Integer, comment="Pixels"),
    CheckConstraint("width > 0", name="width"),
    Column("height", Integer, comment="Pixels"),
    CheckConstraint("height > 0", name="height"),
    Column("rating", Text, nullable=False, comment="Over all sources alike"),
    one_of("rating", RATINGS),
    _metadata(),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "sha256", postgresql_using="hash"),
    schema=SCHEMA,
    comment="One row an image of a source",
)

image_tags = Table(
    "image_tags",
    metadata,
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
    record_column(),
    Column("spelling", Text, comment="The tag as this image spells it"),
    schema=SCHEMA,
    comment="One row a tag on an image",
)

workflows = Table(
    "workflows",
    metadata,
    _key("workflow_id", "ops.key(source, external id)"),
    record_column(),
    _source(),
    *_external_id(),
    *limited("title", 500, comment="Its own title, else its file's name"),
    Column(
        "graph", JSONB, nullable=False, comment="The graph, UI format (nodes, links) or API format (numbered nodes)"
    ),
    Column(
        "nodes_count",
        Integer,
        nullable=False,
        comment="Top-level nodes",
    ),
    CheckConstraint("nodes_count >= 0", name="nodes_count"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "graph", postgresql_using="gin", postgresql_ops={"graph": "jsonb_path_ops"}),
    schema=SCHEMA,
    comment="One row a workflow graph",
)

prompts = Table(
    "prompts",
    metadata,
    _key("prompt_id", "ops.key of the place it was found in"),
    record_column(),
    _source(),
    _parent("model_id", "models.model_id", "Model it was written for", nullable=True),
    _parent("model_version_id", "model_versions.model_version_id", "Version it was written for", nullable=True),
    _parent("workflow_id", "workflows.workflow_id", "Workflow it is part of", nullable=True),
    _parent("image_id", "images.image_id", "Image it made", nullable=True),
    Column("text", Text, nullable=False, comment="The prompt"),
    Column("negative_text", Text, comment="What the image should not show"),
    _metadata(),
    created_column(),
    schema=SCHEMA,
    comment="One row a prompt, from image metadata or from a text-encoder node",
)
