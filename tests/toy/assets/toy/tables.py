"""Tables of the toy domain: authors, their books, copies, covers and quotes, topics, and notes."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from pipelines.warehouse.declare import (
    Timestamp,
    created_column,
    declare_schema,
    limited_text,
    metadata,
    one_of,
    record_column,
    unique,
    updated_column,
)

SCHEMA = declare_schema("toy", "Authors and their books")


def _key(name: str) -> Column[object]:
    return Column(name, UUID, primary_key=True, comment="ops.key of the source and its own id")


def _source() -> Column[object]:
    return Column("source_id", UUID, ForeignKey("ops.sources.source_id"), nullable=False, index=True, comment="Source")


def _parent(table: str, *, nullable: bool = False, key: bool = False) -> Column[object]:
    column = f"{table.removesuffix('s')}_id"
    return Column(
        column,
        UUID,
        ForeignKey(f"toy.{table}.{column}", ondelete="SET NULL" if nullable else "CASCADE"),
        primary_key=key,
        nullable=nullable,
        index=True,
        comment="SET NULL when it goes" if nullable else "The row goes with it",
    )


def _external_id() -> tuple[Column[object], CheckConstraint]:
    return limited_text("external_id", 255, nullable=False, comment="The source's own id")


authors = Table(
    "authors",
    metadata,
    _key("author_id"),
    record_column(),
    _source(),
    *_external_id(),
    *limited_text("name", 100, nullable=False, comment="A required text of limited length"),
    Column("genre", Text, nullable=False, comment="One of an enumeration"),
    one_of("genre", ("Novels", "Poems", "Other")),
    Column("about", Text, comment="An optional text"),
    Column("languages", ARRAY(Text), comment="An array"),
    Column("raw", JSONB, nullable=False, comment="The payload without the parts that are rows of other tables"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    Index(None, "raw", postgresql_using="gin", postgresql_ops={"raw": "jsonb_path_ops"}),
    schema=SCHEMA,
    comment="One row per author of a source",
)

books = Table(
    "books",
    metadata,
    _key("book_id"),
    record_column(),
    _parent("authors"),
    *_external_id(),
    *limited_text("title", 100, nullable=False, comment="Unique for an author"),
    Column("published_at", Timestamp, comment="A time"),
    Column("metadata", JSONB, comment="Further fields of the payload"),
    created_column(),
    unique("author_id", "title"),
    schema=SCHEMA,
    comment="One row per book of an author",
)

copies = Table(
    "copies",
    metadata,
    Column("copy_id", UUID, primary_key=True, comment="ops.key of the source, the book and the copy"),
    record_column(),
    _parent("books"),
    *_external_id(),
    *limited_text("room", 100, nullable=False, comment="A required text of limited length"),
    Column("pages", BigInteger, comment="A number that may not be negative"),
    CheckConstraint("pages >= 0", name="pages"),
    Column("sha256", Text, comment="A text with a pattern"),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
    created_column(),
    Index(None, "sha256", postgresql_using="hash"),
    schema=SCHEMA,
    comment="One row per copy of a book",
)

covers = Table(
    "covers",
    metadata,
    _key("cover_id"),
    record_column(),
    _source(),
    _parent("authors", nullable=True),
    _parent("books", nullable=True),
    *_external_id(),
    Column("url", Text, comment="Address of the picture"),
    Column("width", Integer, comment="In pixels"),
    CheckConstraint("width > 0", name="width"),
    Column("height", Integer, comment="In pixels"),
    Column("metadata", JSONB, comment="Further fields of the payload"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    schema=SCHEMA,
    comment="One row per cover of a source; authors and the listing of covers yield the same ones",
)

quotes = Table(
    "quotes",
    metadata,
    Column("quote_id", UUID, primary_key=True, comment="ops.key of the source and the cover"),
    record_column(),
    _source(),
    _parent("authors", nullable=True),
    _parent("covers", nullable=True),
    Column("text", Text, nullable=False, comment="A required text"),
    created_column(),
    schema=SCHEMA,
    comment="One row per cover with a quote on it",
)

topics = Table(
    "topics",
    metadata,
    Column("topic_id", UUID, primary_key=True, comment="ops.key of the source and the normalized name"),
    Column("source_id", UUID, ForeignKey("ops.sources.source_id"), index=True, comment="Source"),
    *limited_text("name", 50, nullable=False, comment="Readable form"),
    *limited_text("normalized_name", 50, nullable=False, comment="ops.tag_name(name)"),
    created_column(),
    unique("normalized_name", "source_id", nulls_not_distinct=True),
    schema=SCHEMA,
    comment="One row per topic of a source, shared by the authors that refer to it",
)

author_topics = Table(
    "author_topics",
    metadata,
    _parent("authors", key=True),
    _parent("topics", key=True),
    record_column(),
    Column("spelling", Text, comment="The topic as spelled by this author"),
    schema=SCHEMA,
    comment="One row per author and topic",
)

loans = Table(
    "loans",
    metadata,
    _parent("authors", key=True),
    Column("observed_at", Timestamp, primary_key=True, comment="When the counters were received"),
    record_column(),
    Column("loans", BigInteger, comment="A counter"),
    Column("rating", Numeric, comment="A mean"),
    schema=SCHEMA,
    comment="One row per author and time at which the counters changed",
)

notes = Table(
    "notes",
    metadata,
    _key("note_id"),
    record_column(),
    _source(),
    *_external_id(),
    Column("words", Text, nullable=False, comment="What it says"),
    Column("number", Integer, comment="A number in it"),
    Column("place", Text, comment="A name that the engine uses in its own statements"),
    Column("key", Text, comment="The same"),
    Column("rank", Integer, comment="The same"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    schema=SCHEMA,
    comment="One row per note on a shelf",
)
