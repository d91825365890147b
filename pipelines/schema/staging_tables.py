"""Tables of `staging`: payloads, versions, observations, pending rows, landings in progress, erasures, quarantine."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Computed, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, UUID

from pipelines.schema.declare import Timestamp, defaulted, one_of, run_column, table

UNPUBLISHED = ("arrivals", "rejects", "checkpoints")
"""What landings in progress, or interrupted, hold; the checkpoint last, which says whether the others are kept."""

payloads = table(
    "staging.payloads",
    Column("payload_id", UUID, primary_key=True, server_default=text("uuidv7()"), comment="UUID v7: grows with time"),
    run_column("fetch_run_id", "Run that wrote the body", nullable=False),
    Column("digest", BYTEA, nullable=False, comment="sha256 of the bytes as received, without volatile fields"),
    Column("body", JSONB, nullable=False, comment="The payload as the source sent it"),
    Column("original", BYTEA, comment="The exact bytes, where jsonb cannot represent the same value"),
    Column("repairs", ARRAY(Text), comment="What was changed in body, where original is kept"),
    Column("counters_digest", BYTEA, comment="sha256 of the volatile fields in body; null = it has none"),
    Index(None, "digest", postgresql_using="hash"),
    comment="One row per body, append-only; a body that no version refers to is invisible",
)

versions = table(
    "staging.versions",
    Column("version_id", BigInteger, Identity(always=True), primary_key=True, comment="Order of publishing"),
    Column("received_at", Timestamp, nullable=False, comment="When the payload was received, by the database's clock"),
    Column("confirmed_at", Timestamp, comment="When it was received again last, to the day; null = it was not"),
    Column("missing_at", Timestamp, comment="When the last full scan lacked it for the first time; null = it did not"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("external_id", Text, nullable=False, comment="The source's own id of the record"),
    Column("record_id", UUID, nullable=False, index=True, comment="ops.key(stream, external_id)"),
    Column("payload_id", UUID, ForeignKey("staging.payloads.payload_id"), index=True, comment="Body; null = tombstone"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("partition_key", Text, nullable=False, comment="Partition in which it was fetched"),
    run_column("landed_run", "Landing that published it", nullable=False),
    Column("latest", Boolean, nullable=False, comment="Whether it was received last of its record"),
    run_column("valid_from_run", "Transform that applied it to the tables; null = not applied"),
    run_column("valid_to_run", "Transform that replaced it or deleted its rows; null = effective, if applied"),
    Column("identity", Text, comment="External id of the record that was renamed to this one; null = its own"),
    Column("applied_sql", Text, comment="SELECT files (digest) that were applied to it last; null = none"),
    Index("versions_identity_idx", "identity", postgresql_using="hash", postgresql_where=text("identity is not null")),
    Index("versions_latest_key", "record_id", unique=True, postgresql_where=text("latest")),
    Index("versions_partition_idx", "stream", "partition_key", "applied_sql", postgresql_where=text("latest")),
    postgresql_with={"fillfactor": "46"},  # room in each page for HOT updates of all its rows: indexes do not grow
    comment="One row per version of a record: when it was received, and which transforms applied and replaced it",
)

reapplied_versions = table(
    "staging.reapplied_versions",
    Column("version_id", BigInteger, ForeignKey("staging.versions.version_id"), primary_key=True, comment="Version"),
    run_column("fetch_run_id", "Transform that derived its rows again by changed SQL", primary_key=True),
    comment="One row per transform that derived rows of an effective version again by changed SQL",
)

observations = table(
    "staging.observations",
    Column("observation_id", BigInteger, Identity(always=True), primary_key=True, comment="Order of arrival"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("record_id", UUID, nullable=False, comment="ops.key(stream, external_id)"),
    Column("digest", BYTEA, nullable=False, comment="sha256 of the volatile fields as received"),
    Column("counters", JSONB, nullable=False, comment="The volatile fields of a payload, in its structure"),
    Column("paths", JSONB, nullable=False, comment="Paths of the volatile fields in the payload"),
    Column("observed_at", Timestamp, nullable=False, comment="When the values were received; no two at one time"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("partition_key", Text, nullable=False, comment="Partition in which it was fetched"),
    run_column("landed_run", "Landing that published it", nullable=False),
    Column("late", Boolean, nullable=False, comment="Whether newer values were in force when it arrived"),
    run_column("valid_from_run", "Transform that applied it to the tables; null = not applied"),
    Index("observations_record_key", "record_id", "observed_at", unique=True),
    Index("observations_newest_idx", "record_id", "observation_id", postgresql_where=text("not late")),
    Index("observations_pending_idx", "stream", "partition_key", postgresql_where=text("valid_from_run is null")),
    comment="One row per change of a record's volatile fields, append-only; they are not part of a version",
)

pending_rows = table(
    "staging.pending_rows",
    Column("record_id", UUID, nullable=False, index=True, comment="Record that yields the pending row"),
    Column("stream", Text, nullable=False, comment="Stream of the record"),
    Column("table_name", Text, nullable=False, comment="Table of the other row"),
    Column("key", Text, nullable=False, comment="Key of the other row"),
    Column(
        "reason",
        Text,
        nullable=False,
        comment="parent: until it exists; key, unique: until it goes; alias, identity: until it leads elsewhere",
    ),
    defaulted("rows", BigInteger, "1", "How many rows of the record"),
    Index(None, "key", postgresql_using="hash"),
    comment="One row per record with pending rows and the row these depend on: a missing parent, or the owner of a key",
)

aliases = table(
    "staging.aliases",
    Column("record_id", UUID, nullable=False, index=True, comment="Record that yields the row"),
    Column("table_name", Text, nullable=False, comment="Table of the row"),
    Column("lost_key", Text, nullable=False, comment="Key of the row, which is not written"),
    Column("kept_key", Text, nullable=False, comment="Key of the row that has the same identity and is written"),
    Index(None, "lost_key", postgresql_using="hash"),
    comment="One row per row that another one of the same identity stands for; references to it lead to that one",
)

changed_rows = table(
    "staging.changed_rows",
    Column("change_id", BigInteger, Identity(always=True), primary_key=True, comment="Order of the changes"),
    Column("table_name", Text, nullable=False, comment="Table of the row"),
    Column("key", Text, nullable=False, comment="Key of the row"),
    Index(None, "key", postgresql_using="hash"),
    comment="One row per row that an application inserted, changed or deleted, until the next transform of the domain",
)

UNLOGGED = ("unlogged",)
"""Tables of runs in progress: not written to the write-ahead log, empty after a crash of the server."""

arrivals = table(
    "staging.arrivals",
    Column("fetch_run_id", UUID, nullable=False, index=True, comment="Landing in progress or interrupted"),
    Column("sequence", BigInteger, nullable=False, comment="Order received"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("external_id", Text, nullable=False, comment="The source's own id of the record"),
    Column("digest", BYTEA, nullable=False, comment="sha256 of the bytes as received, without volatile fields"),
    Column("received_at", Timestamp, nullable=False, comment="When the payload was received, by the database's clock"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("counters_digest", BYTEA, comment="sha256 of the volatile fields"),
    Column("counters", JSONB, comment="The volatile fields of the payload"),
    Column("paths", JSONB, comment="Paths of the volatile fields in the payload"),
    prefixes=UNLOGGED,
    comment="Payloads of landings in progress, before they are published",
)

rejects = table(
    "staging.rejects",
    Column("fetch_run_id", UUID, nullable=False, index=True, comment="Landing in progress or interrupted"),
    Column("place", BigInteger, Identity(always=True), comment="Order received"),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    defaulted("granularity", Text, "'payload'", "payload, or value: of a payload that lands"),
    one_of("granularity", ("payload", "value")),
    Column("sequence", BigInteger, nullable=False, comment="Place of the payload in the run"),
    Column("bytes", BYTEA, nullable=False, comment="The payload or the value exactly as received"),
    Column("digest", BYTEA, nullable=False, comment="sha256 of bytes"),
    Column("received_at", Timestamp, nullable=False, comment="When the payload was received, by the database's clock"),
    Column("request", Text, nullable=False, comment="URL without secrets, or file:line"),
    Column("external_id", Text, comment="The source's own id, if it can be read"),
    Column("reason", Text, nullable=False, comment="Reason code"),
    Column("detail", Text, nullable=False, comment="The reason in words"),
    Column("path", Text, comment="JSON path of the invalid value"),
    Column("byte_offset", BigInteger, comment="Byte at which the JSON syntax is wrong"),
    CheckConstraint("granularity = 'payload' or num_nulls(external_id, path) = 0", name="value"),
    prefixes=UNLOGGED,
    comment="Payloads and values that landings in progress reject, before they are published",
)

checkpoints = table(
    "staging.checkpoints",
    Column("fetch_run_id", UUID, primary_key=True, comment="Landing in progress or interrupted"),
    Column("progress", JSONB, nullable=False, comment="Positions in its listings, and its counts"),
    prefixes=UNLOGGED,
    comment="One row per landing that can be resumed",
)

erasures = table(
    "staging.erasures",
    run_column("fetch_run_id", "Run that erased it", primary_key=True),
    Column("stream", Text, nullable=False, comment="domain/source, or domain/source.kind"),
    Column("record_id", UUID, nullable=False, comment="ops.key(stream, external_id); the external id is not kept"),
    Column("digest", BYTEA, nullable=False, comment="sha256 of the digests of its versions, in their order"),
    defaulted("erased_at", Timestamp, "now()", "When it was erased"),
    Column("lifted_at", Timestamp, comment="When landing it was allowed again; null = it is not"),
    Index("erasures_effective_key", "record_id", unique=True, postgresql_where=text("lifted_at is null")),
    comment="One row per erased record, which does not land again until lifted_at is set",
)

ENTRY_KEY = """
md5(granularity || ',' || quote_literal(stream) || ',' || coalesce(record_id::text, '') || ',' || case
    when granularity = 'payload' then encode(digest, 'hex')
    else quote_nullable(path) || ',' || quote_nullable(table_name)
        || ',' || quote_nullable(row_key) || ',' || quote_nullable(constraint_name)
end)::uuid
"""
"""A payload is identified by its record and digest, a value in it by its record and path; a row by its record, table,
key and constraint; a value in it by the column instead of the constraint."""

quarantine = table(
    "staging.quarantine",
    Column("quarantine_id", BigInteger, Identity(always=True), primary_key=True, comment="Number for the command line"),
    Column(
        "entry_key",
        UUID,
        Computed(ENTRY_KEY, persisted=True),
        nullable=False,
        unique=True,
        comment="md5 of what identifies the entry, which may be too long for an index",
    ),
    Column("stage", Text, nullable=False, comment="land or transform"),
    one_of("stage", ("land", "transform")),
    Column("granularity", Text, nullable=False, comment="payload, row, or value: of a payload or a row that fits"),
    one_of("granularity", ("payload", "row", "value")),
    Column("stream", Text, nullable=False, comment="Stream of the payload; of a row, its source"),
    Column("partition_key", Text, nullable=False, comment="Partition of the first run"),
    Column("external_id", Text, comment="The source's own id, if it can be read"),
    Column("record_id", UUID, index=True, comment="ops.key(stream, external_id), if it can be read"),
    Column("request", Text, comment="URL without secrets, or file:line"),
    Column("received_at", Timestamp, comment="When the payload was received last; null = an entry of a transform"),
    Column("reason", Text, nullable=False, comment="Reason code"),
    Column("detail", Text, nullable=False, comment="The reason in words"),
    Column("path", Text, comment="JSON path of the invalid value"),
    Column("byte_offset", BigInteger, comment="Byte at which the JSON syntax is wrong"),
    Column("digest", BYTEA, comment="sha256 of bytes"),
    Column("bytes", BYTEA, comment="The payload, or the value in it, exactly as received"),
    Column("table_name", Text, comment="Table of the row"),
    Column("row_key", Text, comment="Key of the row"),
    Column("constraint_name", Text, comment="Constraint or column that the row violates"),
    Column("row", JSONB, comment="The row, or the column with the value, as the SELECT yielded it"),
    run_column("first_run", "First run that found it", nullable=False),
    run_column("opened_run", "Run that opened it, or opened it again after it was closed", nullable=False),
    run_column("last_run", "Last run that found it", nullable=False),
    run_column("closed_run", "Run that landed the payload or inserted the row"),
    defaulted("seen", BigInteger, "1", "How many runs found it"),
    defaulted("first_at", Timestamp, "now()", "When it was found first"),
    defaulted("last_at", Timestamp, "now()", "When it was found last"),
    Column("closed_at", Timestamp, comment="When closed_run closed it"),
    CheckConstraint("(closed_at is null) = (closed_run is null)", name="closed"),
    CheckConstraint("stage <> 'land' or num_nulls(digest, bytes, received_at) = 0", name="land"),
    CheckConstraint("stage <> 'transform' or (table_name is not null and row_key is not null)", name="transform"),
    CheckConstraint(
        "granularity = 'value' or granularity = case stage when 'land' then 'payload' else 'row' end",
        name="granularity_of_stage",
    ),
    Index(None, "stream", "digest"),
    comment="One row per rejected payload, row or value, with its reason",
)
