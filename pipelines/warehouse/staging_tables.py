"""`staging`: raw payloads as the sources sent them, their versions and counters, what waits, and what did not fit."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from pipelines.warehouse.declare import Timestamp, metadata, one_of

STAGES = ("land", "transform")


def _run(name: str, comment: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, UUID, ForeignKey("ops.fetch_runs.fetch_run_id"), nullable=nullable, comment=comment)


payloads = Table(
    "payloads",
    metadata,
    Column("payload_id", UUID, primary_key=True, server_default=text("uuidv7()"), comment="Grows with time"),
    _run("fetch_run_id", "Run that wrote the body", nullable=False),
    Column("digest", LargeBinary, nullable=False, comment="sha256 of the bytes as received, counters left out"),
    Column("body", JSONB, nullable=False, comment="The payload, as the source sent it"),
    Column("original", LargeBinary, comment="The exact bytes, where jsonb cannot hold the same value"),
    Column("repairs", ARRAY(Text), comment="What had to be changed in body, where original is kept"),
    Column("counters_digest", LargeBinary, comment="sha256 of the counters that body holds, where it has any"),
    Index(None, "digest", postgresql_using="hash"),
    schema="staging",
    comment="Bodies, append-only; a body counts once a version names it",
)

versions = Table(
    "versions",
    metadata,
    Column("version_id", BigInteger, Identity(always=True), primary_key=True, comment="Order of publishing"),
    Column("stream", Text, nullable=False, comment="domain/source"),
    Column("external_id", Text, nullable=False, comment="The source's own id of the record"),
    Column("record_id", UUID, nullable=False, index=True, comment="ops.key(stream, external_id)"),
    Column(
        "payload_id", UUID, ForeignKey("staging.payloads.payload_id"), index=True, comment="Body; null = a tombstone"
    ),
    Column("digest", LargeBinary, comment="sha256 of the bytes as received, counters left out"),
    Column(
        "version_at",
        Timestamp,
        nullable=False,
        comment="The source's modification time, else its last fetch",
    ),
    Column("fetched_at", Timestamp, nullable=False, comment="When it was received"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("partition_key", Text, nullable=False, comment="Day under which it was fetched"),
    _run("landed_run", "Landing that published it", nullable=False),
    Column("latest", Boolean, nullable=False, comment="What the source says now"),
    _run("valid_from_run", "Transform that took it into the tables"),
    _run("valid_to_run", "Transform that took it out of the tables"),
    Column(
        "renamed_from", UUID, comment="Record with the same content that was gone when this one came: a file renamed"
    ),
    Column(
        "applied_sql", Text, comment="Digest of the SELECT files that its rows are by; null: none, or they failed since"
    ),
    Column("attempted_sql", Text, comment="Digest of the SELECT files that were run over it last; null: none were yet"),
    CheckConstraint("(payload_id is null) = (digest is null)", name="tombstone"),
    Index("versions_latest_key", "record_id", unique=True, postgresql_where=text("latest")),
    Index(
        "versions_in_force_key",
        "record_id",
        unique=True,
        postgresql_where=text("valid_from_run is not null and valid_to_run is null"),
    ),
    Index("versions_partition_idx", "stream", "partition_key", "attempted_sql", postgresql_where=text("latest")),
    schema="staging",
    postgresql_with={"fillfactor": "40"},  # room in each page to note all of it as seen again: indexes do not grow
    comment="One row a version of a record: what was received when, and which transforms took it in and out",
)

reapplied_versions = Table(
    "reapplied_versions",
    metadata,
    Column("version_id", BigInteger, ForeignKey("staging.versions.version_id"), primary_key=True, comment="Version"),
    Column(
        "fetch_run_id",
        UUID,
        ForeignKey("ops.fetch_runs.fetch_run_id"),
        primary_key=True,
        comment="Transform that derived its rows anew, by other SQL than the transform before",
    ),
    schema="staging",
    comment="One row each time a version in force was derived by other SQL; else that of its valid_from_run holds",
)

observations = Table(
    "observations",
    metadata,
    Column("observation_id", BigInteger, Identity(always=True), primary_key=True, comment="Order of publishing"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("record_id", UUID, nullable=False, comment="ops.key(stream, external_id)"),
    Column("digest", LargeBinary, nullable=False, comment="sha256 of the counters as received"),
    Column("counters", JSONB, nullable=False, comment="The volatile parts of a payload, in its structure"),
    Column("paths", JSONB, nullable=False, comment="Where in the payload they are"),
    Column("observed_at", Timestamp, nullable=False, comment="When the source said so"),
    Column("seen_at", Timestamp, nullable=False, comment="When it said the same last, by day"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("partition_key", Text, nullable=False, comment="Day under which it was fetched"),
    _run("landed_run", "Landing that published it", nullable=False),
    Column("latest", Boolean, nullable=False, comment="What the source says now"),
    _run("valid_from_run", "Transform that took it into the tables"),
    Index("observations_record_key", "record_id", "observed_at", unique=True),
    Index("observations_latest_key", "record_id", unique=True, postgresql_where=text("latest")),
    Index("observations_waiting_idx", "stream", "partition_key", postgresql_where=text("valid_from_run is null")),
    schema="staging",
    comment="One row a record and time at which its counters had changed; they make no version of their own",
)

pending_rows = Table(
    "pending_rows",
    metadata,
    Column("record_id", UUID, nullable=False, index=True, comment="Record that has a row that waits"),
    Column("stream", Text, nullable=False, comment="Its stream"),
    Column("table_name", Text, nullable=False, comment="Table of the row that is waited for"),
    Column("key", Text, nullable=False, comment="Key of that row"),
    Column("reason", Text, nullable=False, comment="parent: until the row exists; key, unique: until it is pruned"),
    Index(None, "table_name", "key"),
    schema="staging",
    comment="Which rows wait for which: a child for its parent, a claim for the row that has what it claims",
)

UNLOGGED = ("unlogged",)
"""For what only a run under way needs: nothing of it is in the write-ahead log, a server that crashes forgets it."""

arrivals = Table(
    "arrivals",
    metadata,
    Column("fetch_run_id", UUID, nullable=False, index=True, comment="Landing under way, or one that broke off"),
    Column("sequence", BigInteger, nullable=False, comment="Order received"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("external_id", Text, nullable=False, comment="The source's own id of the record"),
    Column("digest", LargeBinary, nullable=False, comment="sha256 of the bytes as received, counters left out"),
    Column("version_at", Timestamp, nullable=False, comment="The source's modification time, else that of its fetch"),
    Column("fetched_at", Timestamp, nullable=False, comment="When it was received"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("counters_digest", LargeBinary, comment="sha256 of the counters"),
    Column("counters", JSONB, comment="The volatile parts of the payload"),
    Column("paths", JSONB, comment="Where in the payload they are"),
    schema="staging",
    prefixes=UNLOGGED,
    comment="Payloads of landings under way, before they are published",
)

rejects = Table(
    "rejects",
    metadata,
    Column("fetch_run_id", UUID, nullable=False, index=True, comment="Landing under way, or one that broke off"),
    Column("place", BigInteger, Identity(always=True), comment="Order received"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("bytes", LargeBinary, nullable=False, comment="The payload exactly as received"),
    Column("digest", LargeBinary, nullable=False, comment="sha256 of bytes"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("external_id", Text, comment="The source's own id, where it could be read"),
    Column("reason", Text, nullable=False, comment="Reason code"),
    Column("detail", Text, nullable=False, comment="The reason in words"),
    Column("path", Text, comment="JSON path of the value that is wrong"),
    Column("byte_offset", BigInteger, comment="Byte at which the payload stops being JSON"),
    schema="staging",
    prefixes=UNLOGGED,
    comment="Payloads that landings under way reject, before they are published",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("fetch_run_id", UUID, primary_key=True, comment="Landing under way, or one that broke off"),
    Column("progress", JSONB, nullable=False, comment="How far its listings were read, and what it counted"),
    schema="staging",
    prefixes=UNLOGGED,
    comment="Where a landing that broke off goes on",
)

erasures = Table(
    "erasures",
    metadata,
    Column(
        "fetch_run_id", UUID, ForeignKey("ops.fetch_runs.fetch_run_id"), primary_key=True, comment="Run that erased it"
    ),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("record_id", UUID, nullable=False, comment="ops.key(stream, external_id); the id itself is not kept"),
    Column("digest", LargeBinary, nullable=False, comment="sha256 of the digests of its versions, in their order"),
    Column("erased_at", Timestamp, nullable=False, server_default=func.now(), comment="When it was erased"),
    Column("lifted_at", Timestamp, comment="Since when it may land again"),
    Index("erasures_in_force_key", "record_id", unique=True, postgresql_where=text("lifted_at is null")),
    schema="staging",
    comment="Records that were erased, and do not land again: what is left of them",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", BigInteger, Identity(always=True), primary_key=True, comment="Number for the command line"),
    Column("stage", Text, nullable=False, comment="land or transform"),
    one_of("stage", STAGES),
    Column("stream", Text, nullable=False, comment="domain/source"),
    Column("partition_key", Text, nullable=False, comment="Day of the run that saw it first"),
    Column("external_id", Text, comment="The source's own id, where it could be read"),
    Column("record_id", UUID, index=True, comment="ops.key(stream, external_id), where it could be read"),
    Column("request", Text, comment="URL without secrets, or file:line"),
    Column("reason", Text, nullable=False, comment="Reason code"),
    Column("detail", Text, nullable=False, comment="The reason in words"),
    Column("path", Text, comment="JSON path of the value that is wrong"),
    Column("byte_offset", BigInteger, comment="Byte at which the payload stops being JSON"),
    Column("digest", LargeBinary, comment="sha256 of bytes"),
    Column("bytes", LargeBinary, comment="The payload exactly as received"),
    Column("table_name", Text, comment="Table the row was meant for"),
    Column("row_key", Text, comment="Key of the row"),
    Column("constraint_name", Text, comment="Constraint or column the row does not fit"),
    Column("row", JSONB, comment="The row as the SELECT yielded it"),
    _run("first_run", "Run that saw it first", nullable=False),
    _run("last_run", "Run that saw it last", nullable=False),
    _run("closed_run", "Run in which it landed or fitted after all"),
    Column("seen", BigInteger, nullable=False, server_default=text("1"), comment="How often it was seen"),
    Column("first_at", Timestamp, nullable=False, server_default=func.now(), comment="Seen first"),
    Column("last_at", Timestamp, nullable=False, server_default=func.now(), comment="Seen last"),
    Column("closed_at", Timestamp, comment="When it landed or fitted after all"),
    CheckConstraint("(closed_at is null) = (closed_run is null)", name="closed"),
    CheckConstraint("stage <> 'land' or (digest is not null and bytes is not null)", name="land"),
    CheckConstraint("stage <> 'transform' or (table_name is not null and row_key is not null)", name="transform"),
    Index("quarantine_payload_key", "stream", "digest", unique=True, postgresql_where=text("stage = 'land'")),
    Index(
        "quarantine_row_key",
        "stream",
        "record_id",
        "table_name",
        "row_key",
        "constraint_name",
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=text("stage = 'transform'"),
    ),
    schema="staging",
    comment="Whatever is not where it should be: payloads that did not land, rows that did not fit",
)
