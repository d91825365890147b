"""`ops`: the sources, the ledger of every run, each SELECT that ever ran, and whose turn it is to ask a host."""

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from pipelines.warehouse.declare import Timestamp, created_column, limited, metadata, one_of, unique

RUN_KINDS = ("land", "transform", "rebuild", "prune", "erase")
RUN_STATUSES = ("pending", "in_progress", "completed", "failed", "partial_success")
JSON_TYPES = ("null", "boolean", "number", "string", "array", "object")


def _count(name: str, comment: str) -> Column[object]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"), comment=comment)


sources = Table(
    "sources",
    metadata,
    Column("source_id", UUID, primary_key=True, comment="ops.key(name)"),
    *limited("name", 255, nullable=False, comment="domain/source"),
    Column("kind", Text, nullable=False, comment="How the source is read: http, folder"),
    *limited("base_url", 500, comment="Where it is read when nothing else is set; never with secrets"),
    Column("is_active", Boolean, nullable=False, server_default=text("true"), comment="Set when its connector runs"),
    created_column(),
    unique("name"),
    schema="ops",
    comment="One row a source, written from its declaration",
)

publish_seq = sqlalchemy.Sequence("publish_seq", schema="ops", metadata=metadata)

fetch_runs = Table(
    "fetch_runs",
    metadata,
    Column("fetch_run_id", UUID, primary_key=True, server_default=text("uuidv7()"), comment="Grows with time"),
    Column("publish_seq", BigInteger, unique=True, comment="Order in which runs became visible, drawn under the lock"),
    Column(
        "source_id", UUID, ForeignKey("ops.sources.source_id"), index=True, comment="Source of the run, if it has one"
    ),
    Column("stream", Text, nullable=False, comment="What was landed or transformed: domain/source; or a domain"),
    Column("kind", Text, nullable=False, comment="What was done"),
    one_of("kind", RUN_KINDS),
    Column("asset_key", Text, nullable=False, comment="Dagster asset the run stands for"),
    Column("partition_key", Text, nullable=False, comment="Day that was landed or transformed, or all"),
    Column("dagster_run_id", Text, index=True, comment="Dagster run it was part of, if any"),
    Column("status", Text, nullable=False, index=True, comment="How it stands"),
    one_of("status", RUN_STATUSES),
    Column(
        "started_at", Timestamp, nullable=False, server_default=func.now(), index=True, comment="Opened before any work"
    ),
    Column("ended_at", Timestamp, comment="Closed, together with the data it published"),
    _count("fetched", "Payloads received, or rows yielded by the SELECTs"),
    _count("created", "New records, or rows inserted"),
    _count("updated", "Records or rows that changed"),
    _count("unchanged", "Records or rows that were already there, the same"),
    _count("deleted", "Records or rows taken away; outside the sum of the others"),
    _count("quarantined", "Payloads or rows that are in staging.quarantine instead"),
    _count("duplicates", "Payloads of a record that a later one supersedes; rows yielded twice"),
    Column("cursor_from", JSONB, comment="Where the fetch began, for sources that resume"),
    Column("cursor_to", JSONB, comment="Where the fetch ended, for sources that resume"),
    Column("code_version", Text, nullable=False, comment="Digest of the connector or of the SELECT files"),
    Column(
        "stats",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="Bytes, skipped, counts a table, SQL digests",
    ),
    Column("error_text", Text, comment="Why it failed"),
    CheckConstraint(
        "fetched = created + updated + unchanged + quarantined + duplicates",
        name="conservation",
    ),
    CheckConstraint(
        "least(fetched, created, updated, unchanged, deleted, quarantined, duplicates) >= 0",
        name="not_negative",
    ),
    CheckConstraint("(ended_at is null) = (status in ('pending', 'in_progress'))", name="ended"),
    Index(None, "stream", "kind", "partition_key", "publish_seq"),
    schema="ops",
    comment="The ledger: one row for each landing and each transform of a source's partition",
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("host", Text, primary_key=True, comment="Host and port that sources are read from"),
    Column(
        "next_request_at", Timestamp, nullable=False, server_default=text("'epoch'"), comment="Not to be asked before"
    ),
    Column(
        "blocked_until",
        Timestamp,
        nullable=False,
        server_default=text("'epoch'"),
        comment="It asked to be left alone until then",
    ),
    schema="ops",
    comment="Whose turn it is: when each host may be asked next, by whichever run",
)

sql_texts = Table(
    "sql",
    metadata,
    Column("digest", Text, primary_key=True, comment="sha256 of the text, lower hex"),
    Column("path", Text, nullable=False, comment="File it was read from, below sql/"),
    Column("text", Text, nullable=False, comment="The SELECT as it was run"),
    schema="ops",
    comment="Each SELECT that ever ran, by digest",
)

table_digests = Table(
    "table_digests",
    metadata,
    Column("table_name", Text, primary_key=True, comment="schema.table"),
    Column("rows", BigInteger, nullable=False, comment="How many rows it has"),
    Column("digest", BigInteger, nullable=False, comment="Sum of the hashes of its rows, audit columns left out"),
    schema="ops",
    comment="What the tables of the domains hold, kept up by each transform; its runs keep what they left behind",
)

objects = Table(
    "objects",
    metadata,
    Column("name", Text, primary_key=True, comment="As SQL refers to it, a function with the types of its arguments"),
    Column("kind", Text, nullable=False, comment="function or view"),
    one_of("kind", ("function", "view")),
    Column("digest", Text, nullable=False, comment="sha256 of the statements that created it, lower hex"),
    Column("created_order", BigInteger, Identity(always=True), comment="Order in which objects were created first"),
    schema="ops",
    comment="Functions and views as created from their declarations; one whose text changes is created again",
)

schema_drift = Table(
    "schema_drift",
    metadata,
    Column("stream", Text, primary_key=True, comment="domain/source, with its kind where it has several"),
    Column(
        "path", Text, primary_key=True, comment="modelVersions[*].files[*].sizeKB; *: any other key; $: the payload"
    ),
    Column("type", Text, primary_key=True, comment="What was there"),
    one_of("type", JSON_TYPES),
    Column(
        "first_run",
        UUID,
        ForeignKey("ops.fetch_runs.fetch_run_id"),
        nullable=False,
        comment="Landing that saw it first",
    ),
    Column(
        "last_run", UUID, ForeignKey("ops.fetch_runs.fetch_run_id"), nullable=False, comment="Landing that saw it last"
    ),
    _count("payloads", "Payloads that had it, of those looked at"),
    _count("of_payloads", "Payloads looked at that had the object or array it is in"),
    _count("missed", "How many of these came since the last that had it"),
    Column(
        "share",
        Numeric,
        Computed("round(least(payloads, of_payloads) / nullif(of_payloads, 0)::numeric, 4)", persisted=True),
        comment="payloads of of_payloads, at most 1",
    ),
    Column("payload_id", UUID, comment="The first payload that was seen with it; it may be gone since"),
    schema="ops",
    comment="One row a stream, JSON path and type: what payloads hold, since and until which landing; from a sample",
)
