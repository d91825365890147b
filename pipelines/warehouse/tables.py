"""The tables that serve every domain: the ledger (`ops`) and the raw payloads (`staging`).

Domains declare theirs in `assets/<domain>/tables.py` on the same `metadata`, with the words defined here, so that the
engine can read from a table alone what it must know: its key, whether its rows are owned by a record (`record_id`)
or shared, which columns are audit columns, and every constraint that a row must fit.
"""

from collections.abc import Sequence

import sqlalchemy
from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID

RUN_STATUSES = ("pending", "in_progress", "completed", "failed", "partial_success")
RUN_KINDS = ("land", "transform")
AUDIT_COLUMNS = frozenset({"created_at", "updated_at"})

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

Timestamp = TIMESTAMP(timezone=True)


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """A CHECK that holds a text column to an enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


def limited(
    name: str, length: int, *, comment: str, nullable: bool = True, index: bool = False
) -> tuple[Column[object], CheckConstraint]:
    """A text column with a greatest length; varchar(n) would cut spaces beyond it without a word."""
    column: Column[object] = Column(name, Text, nullable=nullable, index=index, comment=comment)
    return column, CheckConstraint(f"length({name}) <= {length}", name=name)


def unique(*columns: str, nulls_not_distinct: bool = False) -> UniqueConstraint:
    """A unique constraint that rows may pass through while one transaction swaps them."""
    return UniqueConstraint(
        *columns,
        deferrable=True,
        initially="IMMEDIATE",
        postgresql_nulls_not_distinct=nulls_not_distinct or None,
    )


def record_column(*, nullable: bool = False) -> Column[object]:
    """The record that owns a row; the record's version in force is the row's proof.

    nullable: rows are shared, and live as long as something refers to them, unless a record of its own tells one.
    """
    return Column(
        "record_id",
        UUID,
        nullable=nullable,
        index=True,
        comment="Record (stream, external id) the row was derived from; staging.versions holds its proof"
        + ("; null = shared by the rows that refer to it" if nullable else ""),
    )


def created_column() -> Column[object]:
    return Column(
        "created_at", Timestamp, nullable=False, server_default=func.now(), comment="When the row was first written"
    )


def updated_column() -> Column[object]:
    return Column(
        "updated_at", Timestamp, nullable=False, server_default=func.now(), comment="When the row last changed"
    )


def domain_schema(name: str, comment: str) -> str:
    """Declares a domain's schema; its name, for the tables in it."""
    for statement in (f"create schema if not exists {name}", f"comment on schema {name} is '{comment}'"):
        event.listen(metadata, "before_create", DDL(statement))  # type: ignore[no-untyped-call]
    return name


def view(name: str, select: str, comment: str) -> None:
    """Declares a view; it is made after the tables."""
    for statement in (f"create or replace view {name} as\n{select}", f"comment on view {name} is '{comment}'"):
        event.listen(metadata, "after_create", DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


def _count(name: str, comment: str) -> Column[object]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"), comment=comment)


def _run(name: str, comment: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, UUID, ForeignKey("ops.fetch_runs.fetch_run_id"), nullable=nullable, comment=comment)


domain_schema("ops", "The ledger of every run, the sources, and functions that SELECTs share")
domain_schema("staging", "Raw payloads as the sources sent them, their versions, and what did not fit")

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

published = sqlalchemy.Sequence("published", schema="ops", metadata=metadata)

fetch_runs = Table(
    "fetch_runs",
    metadata,
    Column("fetch_run_id", UUID, primary_key=True, server_default=text("uuidv7()"), comment="Grows with time"),
    Column("published", BigInteger, unique=True, comment="Order in which runs became visible, drawn under the lock"),
    Column(
        "source_id", UUID, ForeignKey("ops.sources.source_id"), nullable=False, index=True, comment="Source of the run"
    ),
    Column("stream", Text, nullable=False, comment="What was landed or transformed: domain/source"),
    Column("kind", Text, nullable=False, comment="land or transform"),
    one_of("kind", RUN_KINDS),
    Column("asset_key", Text, nullable=False, comment="Dagster asset the run stands for"),
    Column("partition_key", Text, nullable=False, comment="Day that was landed or transformed"),
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
    CheckConstraint("(ended_at is null) = (status in ('pending', 'in_progress'))", name="ended"),
    Index(None, "stream", "kind", "partition_key", "published"),
    schema="ops",
    comment="The ledger: one row for each landing and each transform of a source's partition",
)

hosts = Table(
    "hosts",
    metadata,
    Column("host", Text, primary_key=True, comment="Host and port that sources are read from"),
    Column("next_at", Timestamp, nullable=False, server_default=text("'epoch'"), comment="Not to be asked before"),
    Column(
        "free_at",
        Timestamp,
        nullable=False,
        server_default=text("'epoch'"),
        comment="It asked to be left alone until then",
    ),
    schema="ops",
    prefixes=("unlogged",),
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
    _run("from_run", "Transform that took it into the tables"),
    _run("to_run", "Transform that took it out of the tables"),
    Column(
        "renamed_from", UUID, comment="Record with the same content that was gone when this one came: a file renamed"
    ),
    CheckConstraint("(payload_id is null) = (digest is null)", name="tombstone"),
    Index("versions_latest_key", "record_id", unique=True, postgresql_where=text("latest")),
    Index(
        "versions_in_force_key",
        "record_id",
        unique=True,
        postgresql_where=text("from_run is not null and to_run is null"),
    ),
    Index("versions_partition_idx", "stream", "partition_key", postgresql_where=text("latest")),
    Index(
        "versions_waiting_idx",
        "stream",
        "partition_key",
        postgresql_where=text("latest and from_run is null"),
    ),
    schema="staging",
    comment="One row a version of a record: what was received when, and which transforms took it in and out",
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
    _run("from_run", "Transform that took it into the tables"),
    Index("observations_record_key", "record_id", "observed_at", unique=True),
    Index("observations_latest_key", "record_id", unique=True, postgresql_where=text("latest")),
    Index("observations_waiting_idx", "stream", "partition_key", postgresql_where=text("from_run is null")),
    schema="staging",
    comment="One row a record and time at which its counters had changed; they make no version of their own",
)

waits = Table(
    "waits",
    metadata,
    Column("record_id", UUID, nullable=False, index=True, comment="Record that has a row that waits"),
    Column("stream", Text, nullable=False, comment="Its stream"),
    Column("table_name", Text, nullable=False, comment="Table of the row that is waited for"),
    Column("key", Text, nullable=False, comment="Key of that row"),
    Column("reason", Text, nullable=False, comment="parent: until it comes; claim, unique: until it goes"),
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

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", BigInteger, Identity(always=True), primary_key=True, comment="Number for the command line"),
    Column("stage", Text, nullable=False, comment="land or transform"),
    one_of("stage", RUN_KINDS),
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

_PARAMETERS = ("a", "b", "c", "d", "e", "f")

FUNCTIONS = [
    *(
        f"""create or replace function ops.key({", ".join(f"{name} text" for name in _PARAMETERS[:arity])})
returns uuid language sql immutable parallel safe
return md5({" || ',' || ".join(f"quote_nullable({name})" for name in _PARAMETERS[:arity])})::uuid"""
        for arity in range(1, len(_PARAMETERS) + 1)
    ),
    """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc)), '[\\s_]+', '_', 'g'))""",
    """create or replace function ops.shown(rating text)
returns boolean language sql stable parallel safe
return rating = any (string_to_array(coalesce(nullif(current_setting('atlas.ratings', true), ''), 'Safe'), ','))""",
    """create or replace function ops.put_back(body jsonb, counters jsonb, paths jsonb)
returns jsonb language plpgsql immutable parallel safe as $$
declare
    path text[];
begin
    for path in
        select array(select jsonb_array_elements_text(p.steps)) from jsonb_array_elements(paths) as p (steps)
    loop
        body := jsonb_set(body, path, counters #> path, false);
    end loop;
    return body;
end $$""",
]

FUNCTION_COMMENTS = [
    *(
        f"comment on function ops.key({', '.join(['text'] * arity)}) is "
        "'Surrogate key of a natural key: md5 of an unambiguous join, as uuid'"
        for arity in range(1, len(_PARAMETERS) + 1)
    ),
    "comment on function ops.shown(text) is "
    "'Whether what has a rating may be shown: Safe, or what the setting atlas.ratings lists, by commas'",
    "comment on function ops.put_back(jsonb, jsonb, jsonb) is 'A payload with other counters at the same places'",
    "comment on function ops.tag_name(text) is "
    "'A tag as every source spells it: NFKC, lower case, trimmed, runs of spaces and underscores as one underscore'",
]

for statement in (*FUNCTIONS, *FUNCTION_COMMENTS):
    event.listen(metadata, "before_create", DDL(statement))  # type: ignore[no-untyped-call]
