"""Tables of the toy domain: authors, their books, copies, covers and quotes, topics, and notes; users with folders,
posts, events and tokens.
"""

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR, UUID

from pipelines.schema.declare import (
    Timestamp,
    application,
    created_column,
    declare_schema,
    limited_text,
    one_of,
    owned,
    shared,
    unique,
    updated_column,
)
from pipelines.schema.objects import function, on_table

declare_schema("toy", "Authors and their books, users and what they write")


def _key(name: str) -> Column[object]:
    return Column(name, UUID, primary_key=True, comment="ops.key of the source and its own id")


def _key_of_any(name: str) -> Column[object]:
    default = text("uuidv7()")
    return Column(
        name, UUID, primary_key=True, server_default=default, comment="A source's, computed, or of the default"
    )


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


authors = owned(
    "toy.authors",
    _key("author_id"),
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
    comment="One row per author of a source",
)

books = owned(
    "toy.books",
    _key("book_id"),
    _parent("authors"),
    *_external_id(),
    *limited_text("title", 100, nullable=False, comment="Unique for an author"),
    Column("published_at", Timestamp, comment="A time"),
    Column("metadata", JSONB, comment="Further fields of the payload"),
    created_column(),
    unique("author_id", "title"),
    comment="One row per book of an author",
)

copies = owned(
    "toy.copies",
    Column("copy_id", UUID, primary_key=True, comment="ops.key of the source, the book and the copy"),
    _parent("books"),
    *_external_id(),
    *limited_text("room", 100, nullable=False, comment="A required text of limited length"),
    Column("pages", BigInteger, comment="A number that may not be negative"),
    CheckConstraint("pages >= 0", name="pages"),
    Column("sha256", Text, comment="A text with a pattern"),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
    created_column(),
    Index(None, "sha256", postgresql_using="hash"),
    comment="One row per copy of a book",
)

covers = owned(
    "toy.covers",
    _key("cover_id"),
    _source(),
    _parent("authors", nullable=True),
    _parent("books", nullable=True),
    *_external_id(),
    Column("url", Text, comment="Address of the picture"),
    Column("width", Integer, info={"strict": True}, comment="In pixels; a cover with a wrong one is not written"),
    CheckConstraint("width > 0", name="width"),
    Column("height", Integer, comment="In pixels"),
    Column("metadata", JSONB, comment="Further fields of the payload"),
    created_column(),
    updated_column(),
    unique("source_id", "external_id"),
    comment="One row per cover of a source; authors and the listing of covers yield the same ones",
)

quotes = owned(
    "toy.quotes",
    Column("quote_id", UUID, primary_key=True, comment="ops.key of the source and the cover"),
    _source(),
    _parent("authors", nullable=True),
    _parent("covers", nullable=True),
    Column("text", Text, nullable=False, comment="A required text"),
    created_column(),
    comment="One row per cover with a quote on it",
)

topics = shared(
    "toy.topics",
    Column("topic_id", UUID, primary_key=True, comment="ops.key of the source and the normalized name"),
    Column("source_id", UUID, ForeignKey("ops.sources.source_id"), index=True, comment="Source"),
    *limited_text("name", 50, nullable=False, comment="Readable form"),
    *limited_text("normalized_name", 50, nullable=False, comment="ops.tag_name(name)"),
    created_column(),
    unique("normalized_name", "source_id", nulls_not_distinct=True),
    comment="One row per topic of a source, shared by the authors that refer to it",
)

author_topics = owned(
    "toy.author_topics",
    _parent("authors", key=True),
    _parent("topics", key=True),
    Column("spelling", Text, comment="The topic as spelled by this author"),
    comment="One row per author and topic",
)

loans = owned(
    "toy.loans",
    _parent("authors", key=True),
    Column("observed_at", Timestamp, primary_key=True, comment="When the counters were received"),
    Column("loans", BigInteger, comment="A counter"),
    Column("rating", Numeric, comment="A mean"),
    comment="One row per author and time at which the counters changed",
)

notes = owned(
    "toy.notes",
    _key("note_id"),
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
    comment="One row per note on a shelf",
)

users = owned(
    "toy.users",
    _key_of_any("user_id"),
    *limited_text("username", 50, nullable=False, comment="Unique, whatever its case"),
    Column("email", Text, info={"private": True}, comment="Unique, whatever its case; hidden from analysts"),
    Column(
        "is_active",
        Boolean,
        nullable=False,
        server_default=text("true"),
        info={"applications": True},
        comment="Set by applications alone",
    ),
    created_column(),
    updated_column(),
    Index("users_email_key", text("lower(email)"), unique=True),
    applications=True,
    identity="lower(username)",
    precedence=("toy/mail",),
    comment="One row per user; sources and applications name the same ones",
)

folders = owned(
    "toy.folders",
    _key_of_any("folder_id"),
    _parent("users"),
    Column("parent_id", UUID, ForeignKey("toy.folders.folder_id", ondelete="CASCADE"), index=True, comment="A tree"),
    Column("name", Text, nullable=False, comment="Name"),
    applications=True,
    comment="One row per folder",
)

posts = owned(
    "toy.posts",
    _key_of_any("post_id"),
    _parent("users"),
    _parent("folders", nullable=True),
    Column("number", Integer, nullable=False, comment="Unique for a user"),
    CheckConstraint("number > 0", name="number"),
    Column("pinned", Boolean, nullable=False, server_default=text("false"), comment="Of one post of a user"),
    Column("title", Text, comment="Title"),
    Column("slug", Text, Computed("lower(title)", persisted=True), comment="Generated, unique for a user"),
    Column("words", TSVECTOR, Computed("to_tsvector('simple', title)", persisted=True), comment="For a search"),
    Column("labels", ARRAY(Text), comment="An array"),
    Column("embedding", VECTOR(3), comment="A vector"),
    created_column(),
    updated_column(),
    unique("user_id", "number"),
    Index("posts_pinned_key", "user_id", unique=True, postgresql_where=text("pinned")),
    Index("posts_slug_key", "user_id", "slug", unique=True),
    applications=True,
    comment="One row per post",
)

on_table(
    "policy",
    "own_posts",
    "toy.posts",
    "alter table toy.posts enable row level security;\n"
    "create policy own_posts on toy.posts using (\n"
    "    user_id = nullif(current_setting('app.user_id', true), '')::uuid)",
    "Users of an application see their own posts",
)

events = owned(
    "toy.events",
    _key_of_any("event_id"),
    Column("happened_at", Timestamp, primary_key=True, comment="Rows are partitioned by its month"),
    _parent("users"),
    Column("kind", Text, comment="What"),
    applications=True,
    postgresql_partition_by="RANGE (happened_at)",
    comment="One row per event; sources and applications name the same ones",
)

secrets = owned(
    "toy.secrets",
    Column("secret_id", UUID, primary_key=True, comment="ops.key of the source, the payload, the user and the name"),
    Column("user_id", Text, nullable=False, comment="The source's own id of the user"),
    Column("name", Text, nullable=False, comment="What it is"),
    Column("value", Text, comment="Its keyed hash"),
    comment="One row per password and token of a user",
)

tokens = application(
    "toy.tokens",
    _key_of_any("token_id"),
    _parent("users"),
    comment="One row per token",
)

audit_log = application(
    "toy.audit_log",
    _key_of_any("entry_id"),
    Column("action", Text, nullable=False, comment="INSERT, UPDATE or DELETE"),
    Column("post_id", UUID, nullable=False, comment="Post, which may have gone"),
    comment="One row per change of a post, written by a trigger",
)

function(
    "toy.log_post()",
    """create or replace function toy.log_post() returns trigger language plpgsql as $$
begin
    insert into toy.audit_log (action, post_id) values (tg_op, coalesce(new.post_id, old.post_id));
    return null;
end $$""",
    "Writes changes of posts to the audit log",
)

on_table(
    "trigger",
    "change_is_logged",
    "toy.posts",
    "create trigger change_is_logged after insert or update or delete on toy.posts "
    "for each row execute function toy.log_post()",
    "Changes of posts are in the audit log",
)
