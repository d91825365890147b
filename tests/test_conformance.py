"""What every source inherits by existing: its own recording, through its own connector and SELECT files, on Postgres.

A connector's own test file holds only what is peculiar to it. Seeds are in the tests' names.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlglot
from msgspec.inspect import DictType, ListType, RawType, StructType, Type, UnionType
from psycopg import sql
from psycopg.rows import tuple_row
from sqlalchemy import Table, make_url
from sqlglot import exp

from pipelines import project
from pipelines.connectors import recording
from pipelines.landing import extract
from pipelines.landing.intake import Intake
from pipelines.landing.land import land_intake, land_items
from pipelines.landing.volatile_fields import EACH_ELEMENT, EACH_VALUE, PathTree, path_tree, split_off
from pipelines.ledger import Run
from pipelines.project import Select
from pipelines.source import Checkpoint, FullScan, Item, Payload, Skipped, Source, Window
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import audit_columns, metadata
from pipelines.warehouse.table_spec import TableSpec, shared_tables
from tests.select_paths import Path, paths_read, steps_of

SAMPLE = 40
"""Payloads of a day that tests of order and of faults use: recordings may hold many."""


NOWHERE = Warehouse(make_url("postgresql://nowhere"))
"""A recording is read without a database."""

Record = tuple[str, str]
"""Kind and external id."""


@dataclass(frozen=True)
class Day:
    """What the recording of a source says about a day."""

    window: Window
    items: Sequence[Item]

    @property
    def payloads(self) -> list[Payload]:
        return [item for item in self.items if isinstance(item, Payload)]

    @property
    def skipped(self) -> list[Skipped]:
        return [item for item in self.items if isinstance(item, Skipped)]

    @property
    def swept(self) -> list[FullScan]:
        return [item for item in self.items if isinstance(item, FullScan)]

    def sampled(self) -> "Day":
        step = -(-len(self.payloads) // SAMPLE)
        return replace(self, items=self.payloads[:: max(step, 1)])


@dataclass
class Loaded:
    """A source with all days of its recording landed and transformed, in their order."""

    source: Source
    warehouse: Warehouse
    days: list[Day]
    runs: list[Run] = field(default_factory=list)

    @property
    def landings(self) -> list[Run]:
        return [run for run in self.runs if run.kind == "land"]

    @property
    def transforms(self) -> list[Run]:
        return [run for run in self.runs if run.kind == "transform"]


def fetch(source: Source, window: Window) -> Day:
    with extract.open_intake(NOWHERE, source, window, "recorded") as intake:
        return Day(window, list(intake.items({})))


@cache
def recorded(name: str) -> list[Day]:
    source = project.sources()[name]
    return [fetch(source, Window(day)) for day in recording.days(source)]


@cache
def sample(name: str) -> list[Day]:
    return [day.sampled() for day in recorded(name)]


def everything(source: Source) -> list[Payload]:
    return [payload for day in recorded(source.name) for payload in day.payloads]


def record_of(source: Source, payload: Payload) -> Record:
    found = payload.external_id or msgspec.json.decode(payload.body, type=source.contracts[payload.kind]).external_id()
    assert found
    return payload.kind, found


def latest_of(source: Source, days: Iterable[Day]) -> dict[Record, Payload]:
    """What is in force of each record: the newest by the source's own time, of these the one received last."""
    received = [(day.window.start, payload) for day in days for payload in day.payloads]

    def version_at(each: tuple[datetime, Payload]) -> datetime:
        start, payload = each
        contract = msgspec.json.decode(payload.body, type=source.contracts[payload.kind])
        return payload.version_at or contract.version_at() or start

    return {record_of(source, payload): payload for _, payload in sorted(received, key=version_at)}


def land(warehouse: Warehouse, source: Source, partition: Window, received: Window, payloads: Sequence[Payload]) -> Run:
    return land_items(warehouse, source, partition.key, payloads, fetched_at=received.start)


def load(warehouse: Warehouse, source: Source, days: Sequence[Day]) -> list[Run]:
    """Lands what days hold as something that somebody brings, which proves nothing gone, and transforms it."""
    runs = []
    for day in days:
        runs.append(land_items(warehouse, source, day.window.key, day.items, fetched_at=day.window.start))
        runs.append(transform(warehouse, source, day.window.key))
    return runs


def replay(warehouse: Warehouse, source: Source, days: Sequence[Day]) -> list[Run]:
    """Lands days as they were recorded, complete listings included, and transforms them."""
    runs = []
    for day in days:
        opened = extract.open_intake(warehouse, source, day.window, "recorded")
        runs.append(land_intake(warehouse, source, day.window.key, opened))
        runs.append(transform(warehouse, source, day.window.key))
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


@pytest.fixture(scope="module", params=list(project.sources().values()), ids=attrgetter("name"))
def source(request: pytest.FixtureRequest) -> Source:
    found: Source = request.param
    return found


@pytest.fixture(scope="module")
def loaded(source: Source, new_warehouse: Callable[[], Warehouse]) -> Iterator[Loaded]:
    """To be read, and to be loaded again: nothing may change it."""
    made = Loaded(source, new_warehouse(), recorded(source.name))
    made.runs = replay(made.warehouse, source, made.days)
    yield made
    made.warehouse.drop_database(made.warehouse.database)


@pytest.fixture(scope="module")
def expected(source: Source, new_warehouse: Callable[[], Warehouse]) -> dict[str, list[str]]:
    """The rows of the sample, loaded in its order."""
    warehouse = new_warehouse()
    load(warehouse, source, sample(source.name))
    found = rows(warehouse, source)
    warehouse.drop_database(warehouse.database)
    return found


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
                    "stream": loaded.source.streams[kind],
                    "external_id": external_id,
                    "at": received,
                },
                binary=True,
            ).fetchall()
            assert found == [{"same": True}], payload.request


# Numbers


def tells(swept: FullScan, kind: str, external_id: str) -> bool:
    """Whether a complete listing tells a record, if there is one."""
    if kind != swept.kind or swept.id_range == (None, None):
        return kind == swept.kind
    above, below = swept.id_range
    return (above is None or int(external_id) > above) and (below is None or int(external_id) < below)


def told_by_itself(source: Source, day: Day, known: Iterable[Record]) -> dict[Record, Payload | None]:
    """What the source says, by its own URL, of each record that complete listings of a day did not tell; None: gone."""
    told = {record_of(source, payload) for payload in day.payloads}
    told |= {("", each.external_id) for each in day.skipped if each.external_id}
    missing = sorted(record for record in set(known) - told if any(tells(each, *record) for each in day.swept))
    with extract.open_intake(NOWHERE, source, day.window, "recorded") as intake:
        return {record: intake.get_record(*record) if intake.get_record else None for record in missing}


def test_the_ledger_counts_what_was_really_fetched(loaded: Loaded) -> None:
    known: dict[Record, bytes] = {}
    for day, run in zip(loaded.days, loaded.landings, strict=True):
        looked = told_by_itself(loaded.source, day, known)
        gone = {record for record, payload in looked.items() if payload is None}
        payloads = day.payloads + [payload for payload in looked.values() if payload is not None]
        latest = latest_of(loaded.source, [replace(day, items=payloads)])
        said = {record: payload.body for record, payload in latest.items()}
        assert run.counts.fetched == len(payloads)
        assert run.counts.created == len(said.keys() - known.keys())
        assert run.counts.unchanged == sum(known.get(record) == body for record, body in said.items())
        assert run.counts.updated == len(said) - run.counts.created - run.counts.unchanged
        assert run.counts.deleted == len(gone)
        assert run.counts.duplicates == len(payloads) - len(said)
        assert sum(run.stats["skipped"].values()) == len(day.skipped)
        assert run.stats["bytes"] == sum(len(payload.body) for payload in payloads)
        known = {record: body for record, body in (known | said).items() if record not in gone}


def test_the_ledger_counts_what_is_in_the_tables(loaded: Loaded) -> None:
    for table in tables_of(loaded.source):
        counted = [run.stats["tables"][table.fullname] for run in loaded.transforms]
        (there,) = answer(loaded.warehouse, f"select count(*) as number from {table.fullname}")
        assert sum(each["created"] - each["deleted"] for each in counted) == there["number"], table.fullname


def test_every_ledger_row_conserves_and_says_what_the_run_said(loaded: Loaded) -> None:
    ledger = {row["fetch_run_id"]: row for row in answer(loaded.warehouse, "select * from ops.fetch_runs")}
    assert ledger.keys() >= {run.id for run in loaded.runs}
    for run in loaded.runs:
        row, counts = ledger[run.id], vars(run.counts)
        assert {name: row[name] for name in counts} == counts
        assert row["status"] == run.status
    for row in ledger.values():
        parts = ("created", "updated", "unchanged", "quarantined", "duplicates")
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
                and landed.kind = 'land' and landed.publish_seq is not null and landed.stream = %s
                and landed.partition_key = s.partition_key
                and taken.kind = 'transform' and taken.publish_seq > landed.publish_seq and taken.stream = landed.stream
        ) as proof
        where t.record_id is not null
        """,
        list(source.streams.values()),
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
            join staging.payloads as p on p.payload_id = s.payload_id and p.digest = s.digest
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
                select {source}::text as source, v.record_id, v.external_id,
                    ops.restore_volatile_fields(p.body, o.counters, o.paths) as body
                from staging.versions as v
                join staging.payloads as p using (payload_id)
                left join lateral (
                    select e.counters, e.paths from staging.observations as e
                    where e.record_id = v.record_id and not e.late order by e.observation_id desc limit 1
                ) as o on true
                where v.latest and v.stream = {stream} and v.record_id = any({records})),
            {observations} as (
                select {source}::text as source, v.record_id, v.external_id, o.observed_at, o.counters as body
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
        for kind, stream in source.streams.items()
    ]
    shape = TableSpec(select.table)
    record = "record_id" if "record_id" in named_columns(select) else "null::uuid"
    query = sql.SQL("with {} select {}, {} from (\n{}\n) as yielded").format(
        sql.SQL(", ").join(streams), shape.key_text("yielded"), sql.SQL(record), sql.SQL(select.file.text)
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query).fetchall()


def owners(connection: Connection, shape: TableSpec) -> dict[str, UUID]:
    """The record that has each key of a table."""
    query = sql.SQL("select {}, record_id from {} as t where record_id is not null").format(
        shape.key_text("t"), shape.target
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        return dict(cursor.execute(query).fetchall())


def test_landing_and_transforming_twice_writes_nothing_the_second_time(loaded: Loaded) -> None:
    before = tuples(loaded.warehouse, loaded.source)
    bodies = answer(loaded.warehouse, "select count(*) as number from staging.payloads")
    again = replay(loaded.warehouse, loaded.source, loaded.days[-1:])
    for day in loaded.days:
        again.append(transform(loaded.warehouse, loaded.source, day.window.key, full=True))
    for run in again:
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0), run
        assert run.status == "completed"
    assert again[0].counts.unchanged > 0
    assert tuples(loaded.warehouse, loaded.source) == before
    assert answer(loaded.warehouse, "select count(*) as number from staging.payloads") == bodies


def test_a_full_transform_fetches_what_the_selects_yield(loaded: Loaded) -> None:
    """Over the day's records, and those that have what a row of the day claims; a mention of what is told is none."""
    source = loaded.source
    selects = project.selects(source.name)
    for day in loaded.days:
        run = transform(loaded.warehouse, source, day.window.key, full=True)
        with loaded.warehouse.connect() as connection:
            latest = connection.execute(
                "select record_id from staging.versions where latest and partition_key = %s", [day.window.key]
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
                assert run.stats["tables"][name]["fetched"] == expected, name


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_payloads_within_a_day_gives_the_same_rows(
    source: Source, warehouse: Warehouse, expected: dict[str, list[str]], seed: int
) -> None:
    dice = random.Random(seed)
    days = []
    for day in sample(source.name):
        mixed = shuffled_records(source, day.payloads, dice)
        days.append(replace(day, items=[payload for group in mixed for payload in group]))
    load(warehouse, source, days)
    assert rows(warehouse, source) == expected


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_partitions_gives_the_same_rows(
    source: Source, warehouse: Warehouse, expected: dict[str, list[str]], seed: int
) -> None:
    """Each day's records are dealt to three partitions; landings and transforms come in any order."""
    dice = random.Random(seed)
    parts: list[tuple[Window, Window, list[Payload]]] = []
    for number, day in enumerate(sample(source.name)):
        dealt: list[list[Payload]] = [[], [], []]
        for group in shuffled_records(source, day.payloads, dice):
            dice.choice(dealt).extend(group)
        for offset, payloads in enumerate(dealt):
            partition = Window(day.window.day + timedelta(days=3 * number + offset))
            parts.append((partition, day.window, payloads))
    dice.shuffle(parts)
    landed: list[str] = []
    for partition, received, payloads in parts:
        land(warehouse, source, partition, received, payloads)
        landed.append(partition.key)
        if dice.random() < 0.4:
            transform(warehouse, source, dice.choice(landed), shrink=True)
    dice.shuffle(landed)
    for key in landed:
        transform(warehouse, source, key, shrink=True)
    assert pending_partitions(warehouse, source) == []
    assert rows(warehouse, source) == expected


# Faults


@dataclass(frozen=True)
class Place:
    """A value in a payload that the contract names: its keys from the top, its path with `[*]` for any element."""

    keys: tuple[str | int, ...]
    path: str
    required: bool

    def is_told_by(self, path: str) -> bool:
        """Whether a path leads here; it may name elements or leave them open."""
        tokens = re.findall(r"\.[^.\[]+|\[\*\]", self.path)
        below = zip(tokens, self.keys, strict=True)
        exact = [
            re.escape(token) if token != "[*]" else rf"(\[\*\]|\[{re.escape(repr(key))}\]|\.{re.escape(str(key))})"
            for token, key in below
        ]
        return re.fullmatch(re.escape("$") + "".join(exact), path) is not None


def places(value: Any, kind: Type, keys: tuple[str | int, ...] = (), path: str = "$") -> Iterator[Place]:
    """The values below `value` that a contract of this type names."""
    for one in kind.types if isinstance(kind, UnionType) else (kind,):
        if isinstance(one, StructType) and isinstance(value, dict):
            for named in one.fields:
                if named.encode_name in value:
                    at, below = (*keys, named.encode_name), f"{path}.{named.encode_name}"
                    if not isinstance(named.type, RawType):
                        yield Place(at, below, named.required)
                    yield from places(value[named.encode_name], named.type, at, below)
        elif isinstance(one, ListType | DictType):
            inner = one.item_type if isinstance(one, ListType) else one.value_type
            children: list[tuple[str | int, Any]] = []
            if isinstance(one, ListType) and isinstance(value, list):
                children = list(enumerate(value))
            elif isinstance(one, DictType) and isinstance(value, dict):
                children = list(value.items())
            for name, child in children:
                if not isinstance(inner, RawType):
                    yield Place((*keys, name), f"{path}[*]", False)
                yield from places(child, inner, (*keys, name), f"{path}[*]")


def relied_upon(source: Source, payloads: Sequence[Payload]) -> dict[Path, tuple[Payload, Place]]:
    """Each path that a contract names, with a payload that has a value there."""
    kinds = {kind: msgspec.inspect.type_info(contract) for kind, contract in source.contracts.items()}
    found: dict[Path, tuple[Payload, Place]] = {}
    for payload in payloads:
        for place in places(msgspec.json.decode(payload.body), kinds[payload.kind]):
            found.setdefault((payload.kind, place.path), (payload, place))
    return found


def changed(payload: Payload, place: Place, value: object, *, leave_out: bool = False) -> bytes:
    """The payload's body with another value at a place, or none."""
    document = msgspec.json.decode(payload.body)
    at = document
    for key in place.keys[:-1]:
        at = at[key]
    if leave_out:
        del at[place.keys[-1]]
    else:
        at[place.keys[-1]] = value
    return msgspec.json.encode(document)


def retyped(source: Source, payload: Payload, place: Place) -> bytes:
    """The payload's body with a value of a type at the place that the contract does not allow there."""
    values: list[object] = [[], {}, "re-typed", 1.5, False]
    for value in values:
        body = changed(payload, place, value)
        try:
            msgspec.json.decode(body, type=source.contracts[payload.kind])
        except msgspec.ValidationError:
            return body
    stream = source.streams[payload.kind]
    pytest.fail(f"the contract of {stream} takes anything at {place.path}: declare it as msgspec.Raw")


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


def test_each_relied_upon_field_retyped_or_missing_is_quarantined_with_its_path(
    source: Source, warehouse: Warehouse
) -> None:
    found = relied_upon(source, everything(source))
    wrong: list[Payload] = []
    for (kind, path), (payload, place) in found.items():
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
        assert each["stream"] == source.streams[kind], each["request"]
        assert each["reason"] == {"re-typed": "wrong_type", "missing": "missing_field"}[how], each["request"]
        assert place.is_told_by(each["path"]), (each["request"], each["path"])
        assert each["external_id"] in (None, record_of(source, payload)[1]), each["request"]


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_payload_never_stops_the_rest(
    source: Source, warehouse: Warehouse, expected: dict[str, list[str]], seed: int
) -> None:
    dice = random.Random(seed)
    days = sample(source.name)
    found = relied_upon(source, days[0].payloads)
    victim, place = found[dice.choice(sorted(found))]
    whole, blank, other = dice.choices(days[0].payloads, k=3)
    broken = [
        (whole, whole.body[: dice.randrange(1, len(whole.body))]),
        (victim, retyped(source, victim, place)),
        (blank, b""),
        (other, dice.choice([b"42", b"null", b'"text"', b"true"])),
    ]
    bad = [
        Payload(body, f"bad:{number}", f"bad/{number}.json" if whole.external_id else None, kind=whole.kind)
        for number, (whole, body) in enumerate(broken)
    ]
    mixed = list(days[0].payloads)
    for payload in bad:
        mixed.insert(dice.randrange(len(mixed) + 1), payload)
    load(warehouse, source, [replace(days[0], items=mixed)])
    runs = load(warehouse, source, days[1:])
    assert all(run.status == "completed" for run in runs)
    assert rows(warehouse, source) == expected

    (first,) = answer(warehouse, "select * from ops.fetch_runs where kind = 'land' order by fetch_run_id limit 1")
    assert first["status"] == "partial_success"
    assert (first["fetched"], first["quarantined"]) == (len(mixed), len(bad))
    kept = entries(warehouse)
    assert {each["request"]: each["bytes"] for each in kept} == {payload.request: payload.body for payload in bad}
    assert all(each["digest"] == hashlib.sha256(each["bytes"]).digest() for each in kept)
    assert {each["recomputes"] for each in kept} == {True}
    assert {each["seen"] for each in kept} == {1}


def test_bad_payloads_landed_again_add_no_entry(
    source: Source, warehouse: Warehouse, expected: dict[str, list[str]]
) -> None:
    days = sample(source.name)
    kind = next(iter(source.contracts))
    bad = [Payload(b"", "bad:0", "bad/0.json", kind=kind), Payload(b"[1, 2", "bad:1", "bad/1.json", kind=kind)]
    days = [*days[:-1], replace(days[-1], items=[*bad, *days[-1].items])]
    first = load(warehouse, source, days)[-2]
    before = entries(warehouse)
    again = load(warehouse, source, days[-1:])[0]
    assert (again.status, again.counts.quarantined) == ("partial_success", 2)
    assert (again.counts.created, again.counts.updated) == (0, 0)
    assert again.counts.unchanged == again.counts.fetched - 2 - first.counts.duplicates > 0
    assert entries(warehouse) == [each | {"seen": 2} for each in before]
    assert rows(warehouse, source) == expected


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


@pytest.mark.parametrize("seed", range(2))
def test_rows_no_longer_yielded_go_and_come_back_with_their_payload(
    source: Source,
    warehouse: Warehouse,
    new_warehouse: Callable[[], Warehouse],
    expected: dict[str, list[str]],
    seed: int,
) -> None:
    days = sample(source.name)
    load(warehouse, source, days)
    before = keys(warehouse, source)
    latest = latest_of(source, days)
    poorer = {
        record: replace(payload, body=msgspec.json.encode(emptied(msgspec.json.decode(payload.body), record[1])))
        for record, payload in latest.items()
        if seed == 0 or random.Random(f"{seed} {record}").random() < 0.5
    }
    poor_day, rich_day = (Window(days[-1].window.day + timedelta(days=after)) for after in (1, 2))

    landed = land(warehouse, source, poor_day, poor_day, list(poorer.values()))
    run = transform(warehouse, source, poor_day.key, shrink=True)
    assert landed.counts.quarantined == run.counts.quarantined == 0
    gone = before - keys(warehouse, source)
    assert run.counts.deleted == len(gone)
    assert gone or len(tables_of(source)) == 1, "nothing was derived from the lists and words of these payloads"
    assert not any(orphans(warehouse, source).values())

    never = new_warehouse()
    land(never, source, poor_day, poor_day, list((latest | poorer).values()))
    transform(never, source, poor_day.key, shrink=True)
    assert divided(rows(warehouse, source))[0] == divided(rows(never, source))[0]
    never.drop_database(never.database)

    back = land(warehouse, source, rich_day, rich_day, [latest[record] for record in poorer])
    assert back.counts.updated == landed.counts.updated > 0
    assert transform(warehouse, source, rich_day.key, shrink=True).counts.deleted == 0
    now, then = divided(rows(warehouse, source)), divided(expected)
    assert now[0] == then[0]
    assert all(set(lines) <= set(now[1][name]) for name, lines in then[1].items())


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_a_record_that_is_gone_go_and_come_back_with_it(
    source: Source,
    warehouse: Warehouse,
    new_warehouse: Callable[[], Warehouse],
    expected: dict[str, list[str]],
    seed: int,
) -> None:
    days = sample(source.name)
    load(warehouse, source, days)
    latest = latest_of(source, days)
    gone = set(random.Random(seed).sample(sorted(latest), k=-(-len(latest) // 2)))
    poor_day, rich_day = (Window(days[-1].window.day + timedelta(days=after)) for after in (1, 2))

    told: list[Item] = [payload for record, payload in latest.items() if record not in gone]
    told += [FullScan(kind, responses=1) for kind in source.contracts]
    intake = Intake(lambda _: told, "recorded", poor_day.start)
    landed = land_intake(warehouse, source, poor_day.key, nullcontext(intake), shrink=True)
    assert landed.counts.deleted == len(gone)
    transform(warehouse, source, poor_day.key, shrink=True)
    assert not any(orphans(warehouse, source).values())

    never = new_warehouse()
    load(
        never,
        source,
        [
            replace(day, items=[payload for payload in day.payloads if record_of(source, payload) not in gone])
            for day in days
        ],
    )
    assert rows(warehouse, source) == rows(never, source)
    never.drop_database(never.database)

    back = land(warehouse, source, rich_day, rich_day, [latest[record] for record in sorted(gone)])
    assert back.counts.created == back.counts.fetched == len(gone)
    assert transform(warehouse, source, rich_day.key, shrink=True).counts.deleted == 0
    assert rows(warehouse, source) == expected
