"""Payloads of the toy domain, a source that a test plays record by record, and what the tables then hold.

    author(1, books=[book(10)]) ──payload──> Recorder.land ──Recorder.transform──> rows, shown, state

Belongs here: what the tests of the engine share. Not here: the toy project (tests/toy), fixtures (tests/conftest.py).
"""

import json
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from psycopg import sql
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.connectors import recording
from pipelines.landing.intake import Intake
from pipelines.ledger import Run
from pipelines.schema.declare import audit_columns, metadata
from pipelines.source import FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Connection, Warehouse
from tests.runs import land_intake, land_items, land_recorded, pending_partitions, transform

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")

Json = dict[str, Any]
State = dict[str, list[tuple[Any, ...]]]


def long_text(length: int) -> str:
    """A text of characters of four bytes that does not compress, the same for each length."""
    draw = random.Random(length)
    return "".join(chr(draw.randrange(0x20000, 0x2A6DF)) for _ in range(length))


def author(number: int | str, name: str | None = None, *, loans: int | None = None, **more: Any) -> Json:
    """An author, with a counter where it is given."""
    counters = {} if loans is None else {"stats": {"loans": loans}}
    return {"id": number, "name": name or f"author {number}"} | counters | more


def book(number: int | str, title: str | None = None, **more: Any) -> Json:
    return {"id": number, "title": title or f"book {number}"} | more


def copy(number: int, **more: Any) -> Json:
    return {"id": number, "room": f"room {number}", "sha256": f"{number:064x}"} | more


def cover(number: int, of: str = "", **more: Any) -> Json:
    return {"id": number, "url": f"https://cover.example/{number}{of}.png"} | more


def whole(number: int, **more: Any) -> Json:
    """An author with one of everything, numbered after itself."""
    covers = [cover(number * 100, width=8, quote=f"quote {number}")]
    only = book(number * 10, copies=[copy(number * 100)], covers=covers)
    return author(number, topics=["all", f"only {number}"], books=[only]) | more


def payload(body: Json | bytes, name: str | None = None, kind: str = "authors") -> Payload:
    """A payload of the library; of the shelf, with a name and without a kind."""
    if isinstance(body, bytes):
        return Payload(body, f"made here, {name}", name, kind=kind)
    text = json.dumps(body, separators=(",", ":")).encode()
    return Payload(text, f"made here, {name or body.get('id')}", name, kind=kind)


@dataclass
class Recorder:
    """A source with the payloads that a test gives it, record by record; lands and transforms them."""

    warehouse: Warehouse
    source: Source
    clock: datetime = START
    now: dict[tuple[str, str], Json] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of a payload where none is given."""
        return next(iter(self.source.contracts))

    def land(self, name: str, body: Json, *, day: str = DAYS[0], kind: str | None = None) -> Run:
        kind = self.kind if kind is None else kind
        self.clock += timedelta(minutes=1)
        self.now[kind, name] = body
        return land_items(self.warehouse, self.source, day, [payload(body, name, kind)], received_at=self.clock)

    def land_all(self, bodies: dict[str, Json], *, day: str = DAYS[0]) -> Run:
        self.clock += timedelta(minutes=1)
        items = [payload(body, name, self.kind) for name, body in bodies.items()]
        return land_items(self.warehouse, self.source, day, items, received_at=self.clock)

    def full_refresh(self, *gone: str, day: str = DAYS[0], kind: str | None = None) -> Run:
        """A full scan of a kind in which some records are missing."""
        kind = self.kind if kind is None else kind
        self.clock += timedelta(minutes=1)
        for name in gone:
            self.now.pop((kind, name), None)
        items: list[Item] = [payload(body, name, each) for (each, name), body in self.now.items() if each == kind]
        every = [*items, FullScan(kind, 1)]
        intake = Intake(lambda _: every, "recorded", self.clock, get_record=lambda *_: None)
        return land_intake(self.warehouse, self.source, day, nullcontext(intake), kind=kind, shrink=True)

    def transform(self, *days: str) -> None:
        """Transforms days, or all that are pending."""
        for day in days or pending_partitions(self.warehouse, self.source):
            transform(self.warehouse, self.source, day, shrink=True)


def rows(warehouse: Warehouse, query: str | sql.Composed, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    with warehouse.connect() as connection:
        return fetched(connection, query, parameters)


def fetched(
    connection: Connection, query: str | sql.Composed, parameters: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    text = query.encode() if isinstance(query, str) else query
    return connection.cursor(row_factory=tuple_row).execute(text, parameters or None).fetchall()


def shown(warehouse: Warehouse, query: str) -> list[Any]:
    """The values of the only column of a query."""
    return [value for (value,) in rows(warehouse, query)]


def state(warehouse: Warehouse) -> State:
    """Every row of the domain less its audit columns, the pending rows, and the open entries of quarantine."""
    queries: dict[str, str | sql.Composed] = {
        "pending": """
            select v.stream, v.external_id, w.table_name, w.key, w.reason
            from staging.pending_rows w join staging.versions v on v.record_id = w.record_id and v.latest
            order by 1, 2, 3, 4, 5
        """,
        "quarantine": """
            select external_id, record_id, table_name, row_key, reason, constraint_name, row::text
            from staging.quarantine where closed_at is null order by 1, 2, 3, 4, 5, 6
        """,
    }
    for table in metadata.sorted_tables:
        if table.schema in project.domains():
            columns = [column.name for column in table.columns if column.name not in audit_columns(table)]
            queries[table.name] = sql.SQL("select t::text from (select {} from {}) as t order by 1").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table.schema, table.name)
            )
    with warehouse.connect() as connection:
        return {name: found for name, query in queries.items() if (found := fetched(connection, query))}


def tuples(warehouse: Warehouse, *but: str) -> dict[str, list[tuple[Any, ...]]]:
    """Place and transactions of every tuple, but for the ledger and some other tables."""
    query = sql.SQL("select ctid::text, xmin::text, xmax::text from {} order by 1")
    with warehouse.connect() as connection:
        return {
            table.fullname: fetched(connection, query.format(sql.Identifier(str(table.schema), table.name)))
            for table in metadata.sorted_tables
            if table.fullname not in {"ops.fetch_runs", "ops.sources", "ops.rate_limits", *but}
        }


def load_recordings(warehouse: Warehouse) -> None:
    """Leaves a warehouse as `make run` does, less what is Dagster's."""
    for source in project.sources().values():
        days = [Window(day) for day in recording.days(source)]
        for day in days:
            land_recorded(warehouse, source, day)
        for day in days:
            transform(warehouse, source, day.key)


def empty(warehouse: Warehouse) -> None:
    """Leaves a warehouse as it was migrated, but for the values of sequences."""
    filled = [table for table in reversed(metadata.sorted_tables) if table.fullname != "ops.objects"]
    tables = [sql.Identifier(str(table.schema), table.name) for table in filled]
    with warehouse.connect() as connection:
        connection.execute(sql.SQL("; ").join(sql.SQL("delete from {}").format(table) for table in tables))


def found(warehouse: Warehouse, *words: str) -> list[str]:
    """The columns, of all tables of the warehouse, that contain one of the words; bytes are read as text too."""
    columns = rows(
        warehouse,
        """
        select table_schema, table_name, column_name, data_type from information_schema.columns
        join information_schema.tables using (table_schema, table_name)
        where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'
        order by 1, 2
        """,
    )
    assert {schema for schema, *_ in columns} >= {"ops", "staging", "toy"}
    there = []
    for (schema, table), own in groupby(columns, key=lambda row: row[:2]):
        asked = [(name, kind, word) for _, _, name, kind in own for word in words]
        query = sql.SQL("select {} from {}").format(
            sql.SQL(", ").join(holds(*each) for each in asked), sql.Identifier(schema, table)
        )
        (counted,) = rows(warehouse, query)
        there += [f"{schema}.{table}.{name}: {word}" for (name, _, word), n in zip(asked, counted, strict=True) if n]
    return there


def holds(column: str, kind: str, word: str) -> sql.Composed:
    """An expression that counts the rows whose column contains a word."""
    text = sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(sql.Identifier(column))
    spelled = [word, "".join(chr(each) if each < 128 else f"\\{each:o}" for each in word.encode())]
    return sql.SQL("count(*) filter (where {})").format(
        sql.SQL(" or ").join(
            sql.SQL("strpos(lower({}), lower({})) > 0").format(text, sql.Literal(each)) for each in spelled
        )
    )
