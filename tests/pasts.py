"""Random histories: records that change, SELECT files that change between runs, and the tables after each run.

For tests of rebuild, time travel and diff. Two sources of the toy domain: the library (counters, topics, key conflicts,
rows that are pending until their parent is there) and the shop (authors and topics too).
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql

from pipelines import project
from pipelines.ledger import Run
from pipelines.schema.declare import audit_columns, metadata
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, Json, Recorder, author, book, copy, cover, fetched
from tests.runs import pending_partitions, transform

Tables = dict[str, list[tuple[Any, ...]]]

SEED = os.environ.get("PASTS_SEED", "20261101")
SEEDS = range(int(os.environ.get("PASTS", "1")))
"""How many random histories each test tries."""

COPIES = "copy_id, record_id, book_id, external_id, room"
COVERS = "cover_id, record_id, source_id, author_id, book_id, external_id, url"

EDITIONS: dict[str, list[str]] = {
    "toy/library/authors": [
        "{}\n-- The same in other words.",
        "select author_id, record_id, source_id, external_id, upper(name) as name, genre, raw from (\n{}\n) as o",
    ],
    "toy/library/books": ["select book_id, record_id, author_id, external_id, 'one' as title from (\n{}\n) as o"],
    "toy/library/copies": [
        f"select {COPIES}, trunc(pages) + 0.0 as pages from (\n{{}}\n) as o",
        f"select {COPIES}, trunc(pages)::text as pages, sha256 from (\n{{}}\n) as o",
    ],
    "toy/library/covers": [
        f"select {COVERS}, width::numeric + 0.0 as width, metadata::text as metadata from (\n{{}}\n) as o",
        "select * from (\n{}\n) as o where url like '%a.png'",
    ],
    "toy/library/author_topics": [
        "select author_id, topic_id, record_id, upper(spelling) as spelling from (\n{}\n) as o"
    ],
    "toy/library/loans": ["select author_id, observed_at, record_id, loans from (\n{}\n) as o where loans <> '2'"],
    "toy/shop/author_topics": [
        "select author_id, topic_id, record_id from (\n{}\n) as o",
        "select * from (\n{}\n) as o where spelling <> 'topic 1'",
    ],
}
"""Other texts for SELECT files, each around the current one: other values, rows, columns or types."""


@dataclass
class Files:
    """A copy of the SELECT files that a test can change."""

    folder: Path
    first: dict[str, str]

    def change(self, address: str, edition: int | None) -> None:
        """Replaces the text of a file by one of its editions; None restores the first text."""
        text = self.first[address]
        if edition is not None:
            text = EDITIONS[address][edition].format(text)
        (self.folder / f"{address}.sql").write_text(text)
        project.selects.cache_clear()


@contextmanager
def changing_files(folder: Path, sources: tuple[str, ...]) -> Iterator[Files]:
    """Replaces the SELECT files of the project by a copy, and its sources by these."""
    shutil.copytree(project.SQL, folder)
    project.load_tables()
    there = {name: replace(source, get_record=None) for name, source in project.sources().items() if name in sources}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "SQL", folder)
        patch.setattr(project, "sources", lambda: there)
        project.selects.cache_clear()
        yield Files(folder, {address: (folder / f"{address}.sql").read_text() for address in EDITIONS})
    project.selects.cache_clear()


@dataclass
class World:
    """A warehouse, its sources, and the rows of its tables after each run."""

    warehouse: Warehouse
    files: Files
    dice: random.Random
    changes: bool = True
    """Whether SELECT files change."""
    recorders: dict[str, Recorder] = field(default_factory=dict)
    tables_after: dict[UUID, Tables] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    after: Callable[["World", Run], None] = lambda world, run: None

    def __post_init__(self) -> None:
        self.recorders = {name: Recorder(self.warehouse, source) for name, source in project.sources().items()}

    def record(self, run: Run) -> None:
        """Notes the rows of the tables after a run."""
        self.runs.append(run)
        self.tables_after[run.id] = tables(self.warehouse)
        self.after(self, run)

    def step(self) -> None:
        """Lands, changes or deletes a record; then perhaps changes a SELECT file, or transforms a day."""
        name = self.dice.choice(list(self.recorders))
        recorder = self.recorders[name]
        kind, record, body = GENERATORS[name](self.dice)
        day = self.dice.choice(DAYS)
        if self.dice.random() < 0.25 and (kind, record) in recorder.now:
            self.record(recorder.full_refresh(record, day=day, kind=kind))
        else:
            self.record(recorder.land(record, body, day=day, kind=kind))
            recorder.clock += timedelta(hours=self.dice.choice([0, 7]))
        if self.changes and self.dice.random() < 0.4:
            address = self.dice.choice([each for each in EDITIONS if each.rpartition("/")[0] in self.recorders])
            self.files.change(address, self.dice.choice([None, *range(len(EDITIONS[address]))]))
        if self.dice.random() < 0.6:
            self.transform_pending(1)

    def transform_pending(self, most: int = 99) -> None:
        """Transforms pending days in a random order."""
        days = [
            (recorder.source, day)
            for recorder in self.recorders.values()
            for day in pending_partitions(self.warehouse, recorder.source)
        ]
        self.dice.shuffle(days)
        for source, day in days[:most]:
            self.record(transform(self.warehouse, source, day, shrink=True))

    def simulate(self, steps: int) -> None:
        """Makes a history of some steps, and transforms all that is pending at its end."""
        for _ in range(steps):
            self.step()
        self.transform_pending()


def tables(warehouse: Warehouse, schema: str = "toy") -> Tables:
    """The rows of all tables of a schema as COPY writes them, without audit columns."""
    found = {}
    with warehouse.connect() as connection:
        for table in metadata.sorted_tables:
            if table.schema == "toy":
                columns = [column.name for column in table.columns if column.name not in audit_columns(table)]
                query = sql.SQL("select {} from {} as t order by {}").format(
                    sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns),
                    sql.Identifier(schema, table.name),
                    sql.SQL(", ").join(sql.Identifier("t", column.name) for column in table.primary_key),
                )
                found[table.name] = fetched(connection, query)
    return found


def some(dice: random.Random, most: int) -> Sequence[int]:
    return dice.sample(range(1, most + 1), dice.choice([0, 0, 1, 1, 2]))


def any_of_library(dice: random.Random) -> tuple[str, str, Json]:
    """An author or a cover, of few ids."""
    number = dice.randint(1, 4)
    if dice.random() < 0.4:
        return "covers", str(number), any_cover(dice, number) | {"book": dice.choice([None, 1, 2])}
    return "authors", str(number), any_author(dice, number)


def any_author(dice: random.Random, number: int) -> Json:
    """An author; books and covers are few over all authors, so that authors have the same ones."""
    books = [
        book(
            each,
            dice.choice("xy"),
            stats={"loans": dice.randint(1, 2)},
            copies=[copy(other, pages=dice.choice([1, 2.5])) for other in some(dice, 2)],
            covers=[any_cover(dice, other) for other in some(dice, 4)],
        )
        for each in some(dice, 4)
    ]
    topics = [f"topic {each}" for each in some(dice, 3)]
    return author(number, loans=dice.randint(1, 3), topics=topics, books=books, about=dice.choice(["short", "long"]))


def any_cover(dice: random.Random, number: int) -> Json:
    quote = dice.choice([{}, {"quote": f"quote {number}"}])
    return cover(number, dice.choice("ab"), width=dice.choice([8, 8, 8, 0])) | quote


def any_of_shop(dice: random.Random) -> tuple[str, str, Json]:
    name = dice.choice("abc")
    return "", name, {"name": name, "topics": [f"topic {each}" for each in some(dice, 3)], "since": dice.randint(1, 3)}


GENERATORS = {"toy/library": any_of_library, "toy/shop": any_of_shop}
"""For each source, a random kind, external_id and body."""
