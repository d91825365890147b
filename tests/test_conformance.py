"""What every source inherits by existing: its own recording, through its own connector and SELECT files, on Postgres.

A connector's own test file holds only what is peculiar to it. `make test-source SOURCE=<domain>/<source>` runs these
tests for one source. Transforms are what costs: a source is loaded once, and tests of what changes use a copy of that.
Of a package with more than MOST records a sample is loaded, drawn by TESTS_SEED, unless SAMPLES=all; what needs no
database looks at all of it. Seeds are in the tests' names; CONFORMANCE_SEEDS=<number> tries more of them.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlglot
from msgspec.inspect import DictType, ListType, RawType, StructType, Type, UnionType
from psycopg import sql
from psycopg.rows import tuple_row
from sqlalchemy import Table
from sqlglot import exp

from pipelines import project
from pipelines.connectors import recording
from pipelines.connectors.json_values import EACH_ELEMENT, EACH_VALUE
from pipelines.landing import extract
from pipelines.landing.intake import Intake
from pipelines.landing.land import land_intake
from pipelines.landing.validate import Arrival, PathTree, path_tree, split_off, validators
from pipelines.ledger import Counts, Run
from pipelines.project import Select
from pipelines.schema.declare import audit_columns, metadata
from pipelines.schema.table_spec import TableSpec, shared_tables
from pipelines.source import Checkpoint, FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Connection, Warehouse
from tests.contract_places import changed, relied_upon, retyped, value_at
from tests.recordings import NOWHERE, Day, Record, everything, fetch, record_of, recorded
from tests.runs import gone as gone_from_source
from tests.runs import land_items, pending_partitions, stream_of, together, transform, transforms_of
from tests.samples import drawn
from tests.select_paths import paths_read, steps_of

NOW = datetime.now(UTC)
MOST = 60
"""Records of a package that are loaded: it may hold many."""

SAMPLE = 40
"""Payloads of a day that tests of order and of what goes use: recordings may hold many."""

SEEDS = range(int(os.environ.get("CONFORMANCE_SEEDS", "1")))


@dataclass
class Loaded:
    """A source with all days of its recording, or a sample of it, landed and transformed, in their order."""

    source: Source
    warehouse: Warehouse
    days: list[Day]
    runs: list[Run] = field(default_factory=list)

    @property
    def landings(self) -> list[Run]:
        """The landings of each day together."""
        landed = [run for run in self.runs if run.kind == "land"]
        return [together(run for run in landed if run.partition == day.window.key) for day in self.days]

    @property
    def transforms(self) -> list[Run]:
        return [run for run in self.runs if run.kind == "transform"]


@dataclass
class Repeated:
    """The last day landed again, and each day transformed again in full, with what was there before."""

    landing: Run
    transforms: list[Run]
    tuples: dict[str, list[dict[str, Any]]]
    bodies: int


@dataclass
class Base:
    """A warehouse to copy: at most SAMPLE payloads a day of what the source has at the end, in their order."""

    warehouse: Warehouse
    days: list[Day]
    rows: dict[str, list[str]]


def latest_of(source: Source, days: Iterable[Day]) -> dict[Record, Payload]:
    """What is in force of each record: what was received last."""
    received = [(day.window.start, payload) for day in days for payload in day.payloads]
    return {record_of(source, payload): payload for _, payload in sorted(received, key=lambda each: each[0])}


def land(warehouse: Warehouse, source: Source, partition: Window, received: Window, payloads: Sequence[Payload]) -> Run:
    return land_items(warehouse, source, partition.key, payloads, received_at=received.start)


def load(warehouse: Warehouse, source: Source, days: Sequence[Day]) -> list[Run]:
    """Lands what days hold as something that somebody brings, which proves nothing gone, and transforms it."""
    runs = []
    for day in days:
        runs.append(land_items(warehouse, source, day.window.key, day.items, received_at=day.window.start))
        runs.append(transform(warehouse, source, day.window.key))
    return runs


def replay(warehouse: Warehouse, source: Source, days: Sequence[Day]) -> list[Run]:
    """Lands what days hold as they were recorded, complete listings included, and transforms them.

    Recordings are small: what one day takes away may be more than a fifth of a table.
    """
    runs = []
    for day in days:
        for stream in source.streams:
            own = [item for item in day.items if getattr(item, "kind", stream.kind) in stream.names]
            with extract.open_intake(warehouse, stream, day.window, "recorded") as intake:
                of_day = replace(intake, items=lambda _, own=own: own)  # type: ignore[misc]
                runs.append(land_intake(warehouse, stream, day.window.key, nullcontext(of_day)))
        runs += transforms_of(warehouse, source, day.window.key, shrink=True)
    return runs


def tables_of(source: Source) -> list[Table]:
    """The tables that a source's rows are in, shared ones included."""
    shapes = [TableSpec(select.table) for select in project.selects(source.name)]
    return list({shape.table.fullname: shape.table for shape in (*shapes, *shared_tables(shapes))}.values())


def named_columns(select: Select) -> list[str]:
    """The columns that a SELECT file yields."""
    query = sqlglot.parse_one(select.file.text, dialect="postgres")
    assert isinstance(query, exp.Query)
    return query.named_selects


def rows(warehouse: Warehouse, source: Source) -> dict[str, list[str]]:
    """The rows of each table of a source as COPY writes them, by key, without what the engine dates them with."""
    found = {}
    with warehouse.connect() as connection:
        for table in tables_of(source):
            unseen = audit_columns(table)
            query = sql.SQL("copy (select {} from {} order by {}) to stdout").format(
                sql.SQL(", ").join(sql.Identifier(each.name) for each in table.columns if each.name not in unseen),
                sql.Identifier(*table.fullname.split(".")),
                sql.SQL(", ").join(sql.Identifier(each.name) for each in table.primary_key.columns),
            )
            with connection.cursor().copy(query) as copy:
                found[table.fullname] = b"".join(copy).decode().splitlines()
    return found


def keys(warehouse: Warehouse, source: Source) -> set[str]:
    """Table and key of every row."""
    found = set()
    with warehouse.connect() as connection:
        for table in tables_of(source):
            query = sql.SQL("select concat_ws(' ', {}::text, {}) as key from {}").format(
                sql.Literal(table.fullname),
                sql.SQL(", ").join(sql.Identifier(each.name) for each in table.primary_key.columns),
                sql.Identifier(*table.fullname.split(".")),
            )
            found |= {row["key"] for row in connection.execute(query)}
    return found


def tuples(warehouse: Warehouse, source: Source) -> dict[str, list[dict[str, Any]]]:
    """Where each tuple lies and who wrote it: the same only if nothing was written at all."""
    with warehouse.connect() as connection:
        return {
            table.fullname: connection.execute(
                sql.SQL("select ctid::text, xmin::text, xmax::text, t::text as row from {} as t order by ctid").format(
                    sql.Identifier(*table.fullname.split("."))
                )
            ).fetchall()
            for table in tables_of(source)
        }


def bodies_in(warehouse: Warehouse) -> int:
    (row,) = answer(warehouse, "select count(*)::int as number from staging.payloads")
    number: int = row["number"]
    return number


def answer(warehouse: Warehouse, query: sql.Composable | str, *parameters: object) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]


def entries(warehouse: Warehouse) -> list[dict[str, Any]]:
    return answer(
        warehouse,
        """
        select stream, request, bytes, digest, seen, closed_at, path, reason, detail, external_id,
            sha256(bytes) = digest as recomputes
        from staging.quarantine order by quarantine_id
        """,
    )


def shuffled_records(source: Source, payloads: Sequence[Payload], dice: random.Random) -> list[list[Payload]]:
    """Payloads by record, records in any order: of payloads of one record the order received means something."""
    groups: dict[Record, list[Payload]] = {}
    for payload in payloads:
        groups.setdefault(record_of(source, payload), []).append(payload)
    mixed = list(groups.values())
    dice.shuffle(mixed)
    return mixed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that asks for a source is run for all of them, or for the one that `--source` names."""
    if "source" in metafunc.fixturenames:
        names = list(project.sources())
        if only := metafunc.config.getoption("--source"):
            if only not in names:
                raise pytest.UsageError(f"no source {only}: there are {', '.join(names)}")
            names = [only]
        metafunc.parametrize("source", [project.sources()[name] for name in names], ids=names, scope="module")


def sample_of(source: Source, days: Sequence[Day]) -> list[Day]:
    """Days of which those of a package say something about MOST records alone, or about all with SAMPLES=all."""
    of_package = [day for day in days if recording.read(source, day.window.day).package]
    records = sorted({record_of(source, payload) for day in of_package for payload in day.payloads})
    kept = set(drawn(records, MOST))

    def is_drawn(item: Item) -> bool:
        return not isinstance(item, Payload) or record_of(source, item) in kept

    return [replace(day, items=list(filter(is_drawn, day.items))) if day in of_package else day for day in days]


@pytest.fixture(scope="module")
def loaded(source: Source, new_warehouse: Callable[[], Warehouse]) -> Iterator[Loaded]:
    """To be read, and to be loaded again: nothing may change it."""
    made = Loaded(source, new_warehouse(), sample_of(source, recorded(source.name)))
    made.runs = replay(made.warehouse, source, made.days)
    yield made
    made.warehouse.drop_database(made.warehouse.database)


@pytest.fixture(scope="module")
def repeated(loaded: Loaded) -> Repeated:
    before = tuples(loaded.warehouse, loaded.source)
    bodies = bodies_in(loaded.warehouse)
    again = replay(loaded.warehouse, loaded.source, loaded.days[-1:])
    landings = [run for run in again if run.kind == "land"]
    runs = [
        run for day in loaded.days for run in transforms_of(loaded.warehouse, loaded.source, day.window.key, full=True)
    ]
    return Repeated(together(landings), runs, before, bodies)


@pytest.fixture(scope="module")
def base(loaded: Loaded, new_warehouse: Callable[[], Warehouse]) -> Iterator[Base]:
    source = loaded.source
    there: set[Record] = set()
    days = []
    for day, gone in with_answers(source, recorded(source.name)):
        there = (there | {record_of(source, payload) for payload in day.payloads}) - gone
        days.append(day)
    days = [
        replace(day, items=[payload for payload in day.payloads if record_of(source, payload) in there]) for day in days
    ]
    if loaded.days == recorded(source.name) and all(len(day.items) <= SAMPLE for day in days):
        yield Base(loaded.warehouse, days, rows(loaded.warehouse, source))
        return
    days = [replace(day, items=day.items[:: -(-len(day.items) // SAMPLE)]) for day in days if day.items]
    made = new_warehouse()
    load(made, source, days)
    yield Base(made, days, rows(made, source))
    made.drop_database(made.database)


# Fetching


def test_the_recording_fetches_and_nothing_of_it_is_refused(loaded: Loaded) -> None:
    assert loaded.days
    assert all(day.payloads for day in loaded.days)
    assert {run.status for run in loaded.runs} == {"completed"}
    assert entries(loaded.warehouse) == []


def timeless(items: Sequence[Item]) -> list[Item]:
    """Items without the time at which a listing was begun."""
    return [
        replace(item, state={name: value for name, value in item.state.items() if name != "started_at"})
        if isinstance(item, Checkpoint)
        else item
        for item in items
    ]


def test_a_day_fetched_again_gives_the_same_items(source: Source) -> None:
    for day in recorded(source.name):
        assert timeless(fetch(source, day.window).items) == timeless(day.items)


def test_every_payload_holds_to_its_contract_and_has_an_id(source: Source) -> None:
    for payload in everything(source):
        msgspec.json.decode(payload.body, type=source.contracts[payload.kind])
        assert record_of(source, payload)


def test_every_stored_body_is_the_value_that_was_received(loaded: Loaded) -> None:
    """I6: the same JSON value, with the counters of that time, or the exact bytes beside it."""
    with loaded.warehouse.connect() as connection:
        for received, payload in ((day.window.start, payload) for day in loaded.days for payload in day.payloads):
            kind, external_id = record_of(loaded.source, payload)
            counters = path_tree(loaded.source.contracts[kind].volatile)
            stable = split_off(payload.body, counters)[0] if counters else payload.body
            found = connection.execute(
                """
                select case
                    when p.original is not null then p.original = %(body)s
                    else ops.restore_volatile_fields(p.body, o.counters, o.paths)
                        = convert_from(%(body)s, 'utf8')::jsonb
                end as same
                from staging.payloads as p
                left join lateral (
                    select e.counters, e.paths from staging.observations as e
                    where e.record_id = ops.key(%(stream)s, %(external_id)s) and e.observed_at <= %(at)s
                    order by e.observed_at desc limit 1
                ) as o on true
                where p.digest = sha256(%(stable)s)
                """,
                {
                    "body": payload.body,
                    "stable": stable,
                    "stream": loaded.source.stream_names[kind],
                    "external_id": external_id,
                    "at": received,
                },
                binary=True,
            ).fetchall()
            assert found == [{"same": True}], payload.request


# Numbers


def covers(scan: FullScan, kind: str, external_id: str) -> bool:
    """Whether a full scan lists a record, if there is one."""
    if kind != scan.kind or scan.id_range is None:
        return kind == scan.kind
    first, last = scan.id_range
    return first <= int(external_id) <= last


def with_answers(source: Source, days: Iterable[Day]) -> Iterator[tuple[Day, set[Record]]]:
    """Each day with the answers to `get_record` about records that its complete listings lack, and the records gone.

    Without `get_record` those are gone that the day before lacked too.
    """
    known: set[Record] = set()
    missing_once: set[Record] = set()
    for day in days:
        listed = {record_of(source, payload) for payload in day.payloads}
        listed |= {("", each.external_id) for each in day.skipped if each.external_id}
        missing = sorted(record for record in known - listed if any(covers(each, *record) for each in day.full_scans))
        answers = {}
        for record in missing:
            with extract.open_intake(NOWHERE, stream_of(source, record[0]), day.window, "recorded") as intake:
                if intake.get_record:
                    answers[record] = intake.get_record(*record)
        found = [payload for payload in answers.values() if payload is not None]
        unasked = set(missing) - answers.keys()
        gone = {record for record, payload in answers.items() if payload is None} | unasked & missing_once
        missing_once = unasked
        known = (known | {record_of(source, payload) for payload in day.payloads}) - gone
        yield replace(day, items=[*day.items, *found]), gone


def test_the_ledger_counts_what_was_really_fetched(loaded: Loaded) -> None:
    known: dict[Record, bytes] = {}
    for (day, gone), run in zip(with_answers(loaded.source, loaded.days), loaded.landings, strict=True):
        latest = latest_of(loaded.source, [day])
        said = {record: payload.body for record, payload in latest.items()}
        assert run.counts.fetched == len(day.payloads)
        assert run.counts.created == len(said.keys() - known.keys())
        assert run.counts.unchanged == sum(known.get(record) == body for record, body in said.items())
        assert run.counts.updated + run.counts.observed == len(said) - run.counts.created - run.counts.unchanged
        assert run.counts.deleted == len(gone)
        assert run.counts.duplicates == len(day.payloads) - len(said)
        own = [each for each in loaded.runs if each.kind == "land" and each.partition == run.partition]
        assert sum(sum(each.stats["skipped"].values()) for each in own) == len(day.skipped)
        assert sum(each.stats["bytes"] for each in own) == sum(len(payload.body) for payload in day.payloads)
        known = {record: body for record, body in (known | said).items() if record not in gone}


def test_the_ledger_counts_what_is_in_the_tables(loaded: Loaded) -> None:
    for table in tables_of(loaded.source):
        counted = [Counts(**run.stats["tables"].get(table.fullname, {})) for run in loaded.transforms]
        (there,) = answer(loaded.warehouse, f"select count(*) as number from {table.fullname}")
        assert sum(each.created - each.deleted for each in counted) == there["number"], table.fullname


def test_every_ledger_row_conserves_and_says_what_the_run_said(loaded: Loaded) -> None:
    ledger = {row["fetch_run_id"]: row for row in answer(loaded.warehouse, "select * from ops.fetch_runs")}
    assert ledger.keys() >= {run.id for run in loaded.runs}
    for run in loaded.runs:
        row, counts = ledger[run.id], vars(run.counts)
        assert {name: row[name] for name in counts} == counts
        assert row["status"] == run.status
    for row in ledger.values():
        parts = ("created", "updated", "observed", "unchanged", "quarantined", "duplicates")
        assert row["fetched"] == sum(row[part] for part in parts)
        for name in (*parts, "fetched", "deleted") if row["kind"] == "transform" else ():
            assert row[name] == sum(each[name] for each in row["stats"]["tables"].values()), name


# Proof


def proven(warehouse: Warehouse, source: Source, table: Table, proof: str) -> dict[str, Any]:
    """How many rows of a table belong to a record, and how many have exactly one proof."""
    (told,) = answer(
        warehouse,
        f"""
        select count(*) as rows, count(*) filter (where proofs = 1) as proven
        from {table.fullname} as t
        cross join lateral (
            {proof} and s.record_id = t.record_id and s.stream = any(%s) and s.request <> ''
                and landed.kind = 'land' and landed.publish_seq is not null and starts_with(landed.stream, %s)
                and landed.partition_key = s.partition_key
                and taken.kind = 'transform' and taken.publish_seq > landed.publish_seq and taken.stream = landed.stream
        ) as proof
        where t.record_id is not null
        """,
        list(source.stream_names.values()),
        source.name,
    )
    return told


def test_every_owned_row_leads_to_one_version_its_payload_and_its_landing(loaded: Loaded) -> None:
    """I1."""
    shapes = [shape for table in tables_of(loaded.source) if "record_id" in (shape := TableSpec(table)).table.columns]
    assert shapes
    for shape in shapes:
        told = proven(
            loaded.warehouse,
            loaded.source,
            shape.table,
            """
            select count(*) as proofs
            from staging.versions as s
            join staging.payloads as p on p.payload_id = s.payload_id
            join ops.fetch_runs as landed on landed.fetch_run_id = s.landed_run
            join ops.fetch_runs as taken on taken.fetch_run_id = s.valid_from_run
            where s.valid_to_run is null
            """,
        )
        assert told["rows"] == told["proven"], shape.name
        assert told["rows"], shape.name


def test_every_row_of_a_series_leads_to_one_observation_and_its_landing(loaded: Loaded) -> None:
    """I1."""
    for shape in (shape for table in tables_of(loaded.source) if (shape := TableSpec(table)).time_series):
        told = proven(
            loaded.warehouse,
            loaded.source,
            shape.table,
            """
            select count(*) as proofs
            from staging.observations as s
            join ops.fetch_runs as landed on landed.fetch_run_id = s.landed_run
            join ops.fetch_runs as taken on taken.fetch_run_id = s.valid_from_run
            where s.observed_at = t.observed_at
            """,
        )
        assert told["rows"] == told["proven"] > 0, shape.name


def referrers(table: Table) -> list[tuple[Table, str]]:
    project.load_tables()
    return [
        (other, reference.column)
        for other in table.metadata.sorted_tables
        for reference in TableSpec(other).references
        if reference.table is table
    ]


def orphans(warehouse: Warehouse, source: Source) -> dict[str, int]:
    """How many rows of each shared table have neither a record of their own nor a row that refers to them."""
    found = {}
    for table in tables_of(source):
        if not TableSpec(table).owned:
            (key,) = table.primary_key.columns
            known = " union all ".join(f"select {column} from {other.fullname}" for other, column in referrers(table))
            query = f"select count(*) as number from {table.fullname} where {key.name} not in ({known})"
            (row,) = answer(warehouse, query)
            found[table.fullname] = row["number"]
    return found


def test_every_shared_row_is_referred_to(loaded: Loaded) -> None:
    assert not any(orphans(loaded.warehouse, loaded.source).values())


def test_every_table_with_a_select_gets_rows_from_the_recording(loaded: Loaded) -> None:
    found = rows(loaded.warehouse, loaded.source)
    assert [name for name, lines in found.items() if not lines] == []


# Twice is once, and order is nothing


def yields(connection: Connection, source: Source, select: Select, records: set[UUID]) -> list[tuple[str, UUID | None]]:
    """Key and record of each row that a SELECT file yields over what is latest of some records."""
    streams = [
        sql.SQL(
            """
            {name} as (
                select {source}::text as source, v.record_id, v.external_id, v.external_id as identity,
                    ops.restore_volatile_fields(p.body, o.counters, o.paths) as body
                from staging.versions as v
                join staging.payloads as p using (payload_id)
                left join lateral (
                    select e.counters, e.paths from staging.observations as e
                    where e.record_id = v.record_id and not e.late order by e.observation_id desc limit 1
                ) as o on true
                where v.latest and v.stream = {stream} and v.record_id = any({records})),
            {observations} as (
                select {source}::text as source, v.record_id, v.external_id, v.external_id as identity,
                    o.observed_at, o.counters as body
                from staging.versions as v
                join staging.observations as o using (record_id)
                where v.latest and v.payload_id is not null and v.stream = {stream} and v.record_id = any({records}))
            """
        ).format(
            name=sql.Identifier(kind or "payloads"),
            observations=sql.Identifier(f"{kind}_observations" if kind else "observations"),
            source=sql.Literal(source.name),
            stream=sql.Literal(stream),
            records=sql.Literal(list(records)),
        )
        for kind, stream in source.stream_names.items()
    ]
    shape = TableSpec(select.table)
    record = "record_id" if "record_id" in named_columns(select) else "null::uuid"
    query = sql.SQL("with {} select {}, {} from (\n{}\n) as yielded").format(
        sql.SQL(", ").join(streams), shape.key_text("yielded"), sql.SQL(record), sql.SQL(select.file.text)
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query).fetchall()


def owners(connection: Connection, shape: TableSpec) -> dict[str, UUID]:
    """The record that has each key of a table; none in one whose rows are shared."""
    if "record_id" not in shape.table.columns:
        return {}
    query = sql.SQL("select {}, record_id from {} as t where record_id is not null").format(
        shape.key_text("t"), shape.target
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(query).fetchall())


def test_landing_and_transforming_twice_writes_nothing_the_second_time(loaded: Loaded, repeated: Repeated) -> None:
    for run in (repeated.landing, *repeated.transforms):
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0), run
        assert run.status == "completed"
    assert repeated.landing.counts.unchanged > 0
    assert tuples(loaded.warehouse, loaded.source) == repeated.tuples
    assert bodies_in(loaded.warehouse) == repeated.bodies


def test_a_full_transform_fetches_what_the_selects_yield(loaded: Loaded, repeated: Repeated) -> None:
    """Over the day's records, and those that have what a row of the day claims; a mention of what is told is none."""
    source = loaded.source
    selects = project.selects(source.name)
    assert len(repeated.transforms) >= len(loaded.days)
    for run in repeated.transforms:
        stream = next(each for each in source.streams if each.name == run.stream)
        with loaded.warehouse.connect() as connection:
            latest = connection.execute(
                "select record_id from staging.versions where latest and partition_key = %s and stream = any(%s)",
                [run.partition, list(stream.names.values())],
            )
            claimants: set[UUID] = set()
            added = {row["record_id"] for row in latest}
            while added:
                claimants |= added
                found = {each.table.fullname: yields(connection, source, each, claimants) for each in selects}
                owned = {each.table.fullname: owners(connection, TableSpec(each.table)) for each in selects}
                claims = {(name, key) for name, told in found.items() for key, record in told if record is not None}
                added = {owned[name][key] for name, key in claims} - claimants
            for name, told in found.items():
                keys_told = {key for key, record in told if record is not None} | owned[name].keys()
                mentions = {key for key, record in told if record is None}
                expected = sum(record is not None for _, record in told) + len(mentions - keys_told)
                counts = Counts(**run.stats["tables"].get(name, {}))
                twice = 0 if owned[name] else counts.duplicates  # a shared row, of records that were taken along too
                assert counts.fetched - twice == expected, name


# Faults


def contract_paths(kind: Type, path: str = "$") -> Iterator[str]:
    """Every path that a contract names with a type."""
    for one in kind.types if isinstance(kind, UnionType) else (kind,):
        children: list[tuple[str, Type]] = []
        if isinstance(one, StructType):
            children = [(f"{path}.{named.encode_name}", named.type) for named in one.fields]
        elif isinstance(one, ListType):
            children = [(f"{path}[*]", one.item_type)]
        elif isinstance(one, DictType):
            children = [(f"{path}[*]", one.value_type)]
        for below, inner in children:
            if not isinstance(inner, RawType):
                yield below
                yield from contract_paths(inner, below)


def test_the_recording_has_a_value_for_each_field_of_the_contract(source: Source) -> None:
    named = {
        (kind, path)
        for kind, contract in source.contracts.items()
        for path in contract_paths(msgspec.inspect.type_info(contract))
    }
    assert named == relied_upon(source, everything(source)).keys()


def is_named(kind: Type, steps: Sequence[str]) -> bool:
    """Whether a contract says what is at a path; below a Raw it says that anything may be."""
    if isinstance(kind, UnionType):
        return any(is_named(each, steps) for each in kind.types)
    if not steps or isinstance(kind, RawType):
        return True
    if isinstance(kind, ListType):
        return is_named(kind.item_type, steps[steps[0] == EACH_ELEMENT :])
    if isinstance(kind, DictType):
        return is_named(kind.value_type, steps[1:])
    fields = {field.encode_name: field.type for field in kind.fields} if isinstance(kind, StructType) else {}
    return steps[0] in fields and is_named(fields[steps[0]], steps[1:])


def test_every_path_that_a_select_reads_is_in_the_contract(source: Source) -> None:
    """I10: dropped, renamed or re-typed it would give NULL without a word. A filter takes whatever there is."""
    read = {path for select in project.selects(source.name) for path in paths_read(source, select)}
    assert read
    for kind, path in read:
        assert is_named(msgspec.inspect.type_info(source.contracts[kind]), steps_of(path)), (kind, path)


def counted(value: Any, counters: PathTree, path: str = "") -> Iterator[str]:
    """The paths of counters that have a value in a document."""
    if not counters:
        yield path
    for step, below in counters.items():
        children: Iterable[Any] = []
        if step == EACH_ELEMENT:
            children = value if isinstance(value, list) else []
        elif isinstance(value, dict):
            children = value.values() if step == EACH_VALUE else [value[step]] if step in value else []
        for child in children:
            yield from counted(child, below, path + step if step == EACH_ELEMENT else f"{path}.{step}")


def test_the_recording_has_a_value_for_each_counter(source: Source) -> None:
    found = {
        (payload.kind, path.removeprefix("."))
        for payload in everything(source)
        for path in counted(
            msgspec.json.decode(payload.body), path_tree(source.contracts[payload.kind].volatile) or {"": {}}
        )
    }
    assert {(kind, path) for kind, contract in source.contracts.items() for path in contract.volatile} <= found


def test_each_required_field_retyped_or_missing_is_quarantined_with_its_path(
    source: Source, warehouse: Warehouse
) -> None:
    found = relied_upon(source, everything(source))
    wrong: list[Payload] = []
    for (kind, path), (payload, place) in found.items():
        if place.required or place.identified:
            wrong.append(replace(payload, request=f"re-typed {kind} {path}", body=retyped(source, payload, place)))
        if place.required:
            without = changed(payload, place, None, leave_out=True)
            wrong.append(replace(payload, request=f"missing {kind} {path}", body=without))
    window = recorded(source.name)[0].window
    run = land(warehouse, source, window, window, wrong)
    assert run.counts.quarantined == run.counts.fetched == len(wrong)
    kept = entries(warehouse)
    assert {each["request"] for each in kept} == {payload.request for payload in wrong}
    for each in kept:
        how, kind, path = each["request"].split(" ", 2)
        payload, place = found[kind, path]
        assert each["stream"] == source.stream_names[kind], each["request"]
        assert each["reason"] == {"re-typed": "wrong_type", "missing": "missing_field"}[how], each["request"]
        assert place.is_told_by(each["path"]), (each["request"], each["path"])
        assert each["external_id"] in (None, record_of(source, payload)[1]), each["request"]


def test_each_optional_field_retyped_is_quarantined_alone_with_its_path(source: Source) -> None:
    by_kind = {kind: each for stream in source.streams for kind, each in validators(stream).items()}
    for (kind, path), (payload, place) in relied_upon(source, everything(source)).items():
        if not place.required and not place.identified:
            arrival = by_kind[kind].validate(replace(payload, body=retyped(source, payload, place)), 1, NOW)
            assert isinstance(arrival, Arrival) and arrival.external_id == record_of(source, payload)[1], path
            (value,) = arrival.rejected
            assert place.is_told_by(value.path), (path, value.path)
            assert msgspec.json.decode(value.value) == value_at(arrival.body, place), path


def bad_payloads(source: Source, payloads: Sequence[Payload], dice: random.Random) -> list[Payload]:
    """Payloads that are cut, re-typed, empty, or no object."""
    whole, blank, other = dice.choices(payloads, k=3)
    broken = [
        (whole, whole.body[: dice.randrange(1, len(whole.body))]),
        (blank, b""),
        (other, dice.choice([b"42", b"null", b'"text"', b"true"])),
    ]
    required = [each for each in relied_upon(source, payloads).values() if each[1].required or each[1].identified]
    broken += [(victim, retyped(source, victim, place)) for victim, place in required[:1]]
    return [
        Payload(body, f"bad:{number}", f"bad/{number}.json" if whole.external_id else None, kind=whole.kind)
        for number, (whole, body) in enumerate(broken)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_payloads_and_partitions_and_bad_payloads_among_them_give_the_same_rows(
    source: Source, warehouse: Warehouse, base: Base, seed: int
) -> None:
    """The records of each day are dealt to two partitions; landings and transforms come in any order."""
    dice = random.Random(seed)
    keys = [Window(base.days[0].window.day + timedelta(days=number)).key for number in range(2)]
    parts: list[tuple[str, Window, list[Payload]]] = []
    for day in base.days:
        groups = shuffled_records(source, day.payloads, dice)
        for number, key in enumerate(keys):
            parts.append((key, day.window, [payload for group in groups[number::2] for payload in group]))
    with_bad = parts[-2]
    bad = bad_payloads(source, with_bad[2], dice)
    for payload in bad:
        with_bad[2].insert(dice.randrange(len(with_bad[2]) + 1), payload)
    dice.shuffle(parts)

    def land_part(key: str, received: Window, payloads: Sequence[Payload]) -> Run:
        return land_items(warehouse, source, key, payloads, received_at=received.start)

    runs = {}
    for number, part in enumerate(parts):
        run = runs[number] = land_part(*part)
        assert run.counts.fetched == len(part[2])
        assert run.counts.quarantined == (len(bad) if part is with_bad else 0)
        assert run.status == ("partial_success" if part is with_bad else "completed")
        if number + 1 == len(parts) // 2:
            transform(warehouse, source, part[0], shrink=True)
    pending = pending_partitions(warehouse, source)
    dice.shuffle(pending)
    assert {transform(warehouse, source, key, shrink=True).status for key in pending} == {"completed"}
    assert pending_partitions(warehouse, source) == []
    assert rows(warehouse, source) == base.rows

    kept = entries(warehouse)
    assert {each["request"]: each["bytes"] for each in kept} == {payload.request: payload.body for payload in bad}
    assert all(each["digest"] == hashlib.sha256(each["bytes"]).digest() for each in kept)
    assert {each["recomputes"] for each in kept} == {True}
    assert {each["seen"] for each in kept} == {1}

    again, first = land_part(*with_bad), runs[parts.index(with_bad)]
    assert (again.status, again.counts.quarantined) == ("partial_success", len(bad))
    assert (again.counts.created, again.counts.updated) == (0, 0)
    assert again.counts.unchanged == again.counts.fetched - len(bad) - first.counts.duplicates > 0
    reopened = {"closed_at": None, "seen": 2}  # that of a record which landed well in another part was closed
    assert [each | reopened for each in entries(warehouse)] == [each | reopened for each in kept]
    assert {each["seen"] for each in entries(warehouse)} == {2}
    assert pending_partitions(warehouse, source) == []


# What is no longer said


def emptied(value: Any, kept: str) -> Any:
    """The same document without an element in any of its lists or a word in its sentences, but for its id."""
    if isinstance(value, list):
        return []
    if isinstance(value, dict):
        return {key: emptied(each, kept) for key, each in value.items()}
    return "" if isinstance(value, str) and " " in value and value != kept else value


def divided(found: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Tables that tell how things are, and series, which tell how they were too."""
    series = {name for name in found if TableSpec(metadata.tables[name]).time_series}
    return (
        {name: lines for name, lines in found.items() if name not in series},
        {name: lines for name, lines in found.items() if name in series},
    )


def owned_rows(warehouse: Warehouse, source: Source, records: Iterable[Record]) -> int:
    """How many rows belong to records."""
    owned = [table for table in tables_of(source) if "record_id" in table.columns]
    counts = " + ".join(f"(select count(*) from {table.fullname} where record_id = any(r.ids))" for table in owned)
    streams, names = zip(*((source.stream_names[kind], external_id) for kind, external_id in records), strict=True)
    query = f"""
        select {counts} as number
        from (select array_agg(ops.key(stream, id)) as ids from unnest(%s::text[], %s::text[]) as u (stream, id)) as r
    """
    (row,) = answer(warehouse, query, list(streams), list(names))
    number: int = row["number"]
    return number


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_what_is_no_longer_said_go_and_come_back_with_it(
    source: Source,
    base: Base,
    warehouse: Warehouse,
    copied: Callable[[Warehouse], Warehouse],
    seed: int,
) -> None:
    """Half of the records are gone one day, and the others lack their lists and sentences; the next day all is back."""
    latest = latest_of(source, base.days)
    gone = set(random.Random(seed).sample(sorted(latest), k=len(latest) // 2))
    poorer = {
        record: replace(payload, body=msgspec.json.encode(emptied(msgspec.json.decode(payload.body), record[1])))
        for record, payload in latest.items()
        if record not in gone
    }
    poor_day, rich_day = (Window(base.days[-1].window.day + timedelta(days=after)) for after in (1, 2))
    changing = copied(base.warehouse)
    before = keys(changing, source)
    rich = owned_rows(changing, source, poorer)

    landed = []
    for stream in source.streams:
        told: list[Item] = [payload for payload in poorer.values() if payload.kind in stream.names]
        told += [FullScan(kind, responses=1) for kind in stream.names]
        intake = Intake(lambda _, told=told: told, "recorded", poor_day.start, get_record=gone_from_source)  # type: ignore[misc]
        landed.append(land_intake(changing, stream, poor_day.key, nullcontext(intake), shrink=True))
    assert sum(run.counts.deleted for run in landed) == len(gone)
    assert all(run.counts.quarantined == 0 for run in landed)
    run = transform(changing, source, poor_day.key, shrink=True)
    assert run.counts.deleted == len(before - keys(changing, source)) > 0
    assert owned_rows(changing, source, poorer) < rich or len(tables_of(source)) == 1, (
        "nothing was derived from the lists and words of these payloads"
    )
    assert not any(orphans(changing, source).values())

    for day in base.days:
        left = [payload for payload in day.payloads if record_of(source, payload) not in gone]
        land(warehouse, source, poor_day, day.window, left)
    land(warehouse, source, poor_day, poor_day, list(poorer.values()))
    transform(warehouse, source, poor_day.key, shrink=True)
    assert rows(changing, source) == rows(warehouse, source)
    refused, refused_at_once = (
        [(each["stream"], each["external_id"], each["reason"], each["detail"]) for each in entries(each_warehouse)]
        for each_warehouse in (changing, warehouse)
    )
    assert sorted(refused, key=str) == sorted(refused_at_once, key=str)

    back = land(changing, source, rich_day, rich_day, list(latest.values()))
    updated = sum(run.counts.updated for run in landed)
    assert (back.counts.created, back.counts.updated) == (len(gone), updated)
    assert updated > 0
    assert transform(changing, source, rich_day.key, shrink=True).counts.deleted == 0
    now, then = divided(rows(changing, source)), divided(base.rows)
    assert now[0] == then[0]
    assert all(set(lines) <= set(now[1][name]) for name, lines in then[1].items())
