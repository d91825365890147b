"""Tables of `ops`: sources, the ledger of runs, SELECT texts, rate limits, table digests, objects, people of logins,
schema drift.
"""

import sqlalchemy
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from pipelines.schema.declare import (
    Timestamp,
    created_column,
    defaulted,
    hash_of,
    limited_text,
    metadata,
    one_of,
    run_column,
    table,
    unique,
)

NULL, UNREAD = "null", "unread"
"""The type of a path in ops.schema_drift that had no value yet, or that neither a SELECT nor a contract reads."""


def _count(name: str, comment: str) -> Column[object]:
    return defaulted(name, BigInteger, "0", comment)


sources = table(
    "ops.sources",
    Column("source_id", UUID, primary_key=True, comment="ops.key(name)"),
    *limited_text("name", 255, nullable=False, comment="domain/source"),
    Column("kind", Text, nullable=False, comment="How the source is read: http, folder"),
    *limited_text("base_url", 500, comment="Default address, without secrets"),
    defaulted("is_active", Boolean, "true", "Whether a connector declares it; set when the connector runs"),
    created_column(),
    unique("name"),
    comment="One row per source, written from its connector",
)

publish_seq = sqlalchemy.Sequence("publish_seq", schema="ops", metadata=metadata)

fetch_runs = table(
    "ops.fetch_runs",
    Column("fetch_run_id", UUID, primary_key=True, server_default=text("uuidv7()"), comment="UUID v7: grows with time"),
    Column("publish_seq", BigInteger, unique=True, comment="Order in which runs were published; null = not published"),
    Column("source_id", UUID, ForeignKey("ops.sources.source_id"), index=True, comment="Source; null = a whole domain"),
    Column("stream", Text, nullable=False, comment="Stream; a source or a domain for a run of several streams"),
    Column("kind", Text, nullable=False, comment="Kind of run"),
    one_of("kind", ("land", "transform", "rebuild", "prune", "erase")),
    Column("asset_key", Text, nullable=False, comment="Dagster asset of the run"),
    Column("partition_key", Text, nullable=False, comment="Partition: a day, or all"),
    Column("dagster_run_id", Text, index=True, comment="Dagster run that executed it; null = none did"),
    Column("status", Text, nullable=False, index=True, comment="Status"),
    one_of("status", ("pending", "in_progress", "completed", "failed", "partial_success")),
    defaulted("started_at", Timestamp, "now()", "When the run was opened, before it read anything", index=True),
    Column("ended_at", Timestamp, comment="When the run was closed, in the transaction that published its data"),
    _count("fetched", "Payloads received, or rows yielded by the SELECTs"),
    _count("created", "Records or rows inserted"),
    _count("updated", "Records or rows updated"),
    _count("observed", "Records of which only volatile fields changed"),
    _count("unchanged", "Records or rows that were equal already"),
    _count("deleted", "Records or rows deleted; not part of fetched"),
    _count("quarantined", "Payloads or rows that were quarantined"),
    _count("pending", "Rows whose parent has not come yet; see staging.pending_rows"),
    _count("duplicates", "Payloads that are not the newest of their record; rows yielded twice, or with a taken key"),
    Column("cursor_from", JSONB, comment="Cursor at which the extraction started"),
    Column("cursor_to", JSONB, comment="Cursor at which the extraction ended"),
    Column("code_version", Text, nullable=False, comment="Digest of the connector or of the SELECT files"),
    defaulted("stats", JSONB, "'{}'", "Bytes, skipped records, counts per table, digests of SELECT files"),
    Column("error_text", Text, comment="Error of a failed run"),
    CheckConstraint(
        "fetched = created + updated + observed + unchanged + quarantined + pending + duplicates", name="conservation"
    ),
    CheckConstraint(
        "least(fetched, created, updated, observed, unchanged, deleted, quarantined, pending, duplicates) >= 0",
        name="not_negative",
    ),
    CheckConstraint("(ended_at is null) = (status in ('pending', 'in_progress'))", name="ended"),
    Index(None, "stream", "kind", "partition_key", "publish_seq"),
    comment="The ledger: one row per run",
)

rate_limits = table(
    "ops.rate_limits",
    hash_of("host"),
    Column("host", Text, nullable=False, comment="Host and port"),
    defaulted("next_request_at", Timestamp, "'epoch'", "No request is sent before"),
    defaulted("blocked_until", Timestamp, "'epoch'", "End of the wait that the host asked for (Retry-After)"),
    comment="One row per host: when the next request of any run may be sent",
)

sql_texts = table(
    "ops.sql",
    Column("digest", Text, primary_key=True, comment="sha256 of the text, lower hex"),
    Column("path", Text, nullable=False, comment="Path of the file, below sql/"),
    Column("text", Text, nullable=False, comment="Text of the SELECT"),
    comment="One row per text of a SELECT file that a run applied",
)

table_digests = table(
    "ops.table_digests",
    Column("table_name", Text, primary_key=True, comment="schema.table"),
    Column("rows", BigInteger, nullable=False, comment="Number of rows"),
    Column("digest", Text, nullable=False, comment="Sum of the hashes of its rows, without audit columns; in hex"),
    comment="One row per table of a domain: its contents in numbers, updated by each transform",
)

objects = table(
    "ops.objects",
    Column("name", Text, primary_key=True, comment="Name in SQL; for a function with the types of its arguments"),
    Column("kind", Text, nullable=False, comment="function, view, trigger or policy"),
    one_of("kind", ("function", "view", "trigger", "policy")),
    Column("digest", Text, nullable=False, comment="sha256 of the statements that created it, lower hex"),
    Column("created_order", BigInteger, Identity(always=True), comment="Order of creation"),
    comment="One row per function, view, trigger or policy; one is created again when its declared text changes",
)

role_users = table(
    "ops.role_users",
    Column("role_name", Text, primary_key=True, comment="Login, a member of atlas_analyst"),
    Column("user_id", UUID, nullable=False, comment="Person who logs in with it"),
    comment="One row per login of an analyst: which person it is",
)

schema_drift = table(
    "ops.schema_drift",
    Column("stream", Text, primary_key=True, comment="domain/source, with its kind where it has several"),
    hash_of("path"),
    Column("path", Text, nullable=False, comment="modelVersions[*].files[*].sizeKB; *: any key; $: the payload"),
    Column("type", Text, primary_key=True, comment="JSON type; null: no value yet; unread: no SELECT reads the key"),
    one_of("type", (NULL, "boolean", "number", "string", "array", "object", UNREAD)),
    run_column("first_run", "Landing that received it first", nullable=False),
    run_column("last_run", "Landing that received it last", nullable=False),
    _count("payloads", "Inspected payloads that have the path with this type"),
    _count("of_payloads", "Inspected payloads until last_run that have the object or array around it"),
    _count("lacking", "Inspected payloads since, which have that and lack this"),
    Column(
        "share",
        sqlalchemy.Numeric,
        sqlalchemy.Computed("round(least(payloads, of_payloads) / nullif(of_payloads, 0)::numeric, 4)", persisted=True),
        comment="payloads / of_payloads, at most 1",
    ),
    Column("payload_id", UUID, comment="First payload that contains it; may be deleted since"),
    comment="One row per stream, JSON path and type that SQL reads; and one per key that nothing reads",
)
