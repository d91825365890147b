"""Random histories: records that change, SELECT files that change between runs, and the tables after each run.

For tests of rebuild, time travel and diff. Two sources: CivitAI (counters, tags, key conflicts, rows that are pending
until their parent is there) and Danbooru (tags with a record of their own).
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
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
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.declare import audit_columns, metadata
from tests.transform.test_change_set import DAYS, Json, Recorder, any_listed, any_model, rows, some

Tables = dict[str, list[tuple[Any, ...]]]

SEED = os.environ.get("PASTS_SEED", "20261101")
SEEDS = range(int(os.environ.get("PASTS", "1")))
"""How many random histories each test tries."""

IMAGES = "image_id, record_id, source_id, model_id, model_version_id, external_id, url, rating"
ARTIFACTS = "artifact_id, record_id, model_version_id, external_id, kind, file_name"

EDITIONS: dict[str, list[str]] = {
    "catalog/civitai/models": [
        "{}\n-- The same in other words.",
        "select model_id, record_id, source_id, external_id, upper(name) as name, type, nsfw_rating, raw\n"
        "from (\n{}\n) as o",
    ],
    "catalog/civitai/model_versions": [
        "select model_version_id, record_id, model_id, external_id, 'one' as version_label, metadata\n"
        "from (\n{}\n) as o",
    ],
    "catalog/civitai/artifacts": [
        f"select {ARTIFACTS}, trunc(size_bytes) + 0.0 as size_bytes from (\n{{}}\n) as o",
        f"select {ARTIFACTS}, trunc(size_bytes)::text as size_bytes, metadata from (\n{{}}\n) as o",
    ],
    "catalog/civitai/images": [
        f"select {IMAGES}, width::numeric + 0.0 as width, metadata::text as metadata from (\n{{}}\n) as o",
        "select * from (\n{}\n) as o where url like '%/a.png'",
    ],
    "catalog/civitai/model_tags": [
        "select model_id, tag_id, record_id, upper(spelling) as spelling from (\n{}\n) as o"
    ],
    "catalog/civitai/model_stats": [
        "select model_id, observed_at, record_id, downloads from (\n{}\n) as o where downloads <> '2'",
    ],
    "catalog/danbooru/tags": [
        "select tag_id, record_id, source_id, name, normalized_name from (\n{}\n) as o",
        "select * from (\n{}\n) as o where record_id is null",
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


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """SELECT files that the test can change."""
    with changing_files(tmp_path_factory.mktemp("project") / "sql", tuple(GENERATORS)) as files:
        yield files


@dataclass
class World:
    """A warehouse, its sources, and the rows of its tables after each run."""

    warehouse: Warehouse
    files: Files
    dice: random.Random
    changes: bool = True
    """Whether SELECT files change."""
    told: dict[str, Recorder] = field(default_factory=dict)
    tables_after: dict[UUID, Tables] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    after: Callable[["World", Run], None] = lambda world, run: None

    def __post_init__(self) -> None:
        self.told = {name: Recorder(self.warehouse, source) for name, source in project.sources().items()}

    def record(self, run: Run) -> None:
        """Notes the rows of the tables after a run."""
        self.runs.append(run)
        self.tables_after[run.id] = tables(self.warehouse)
        self.after(self, run)

    def step(self) -> None:
        """Lands, changes or deletes a record; then perhaps changes a SELECT file, or transforms a day."""
        name = self.dice.choice(list(self.told))
        told = self.told[name]
        kind, record, body = GENERATORS[name](self.dice)
        day = self.dice.choice(DAYS)
        if self.dice.random() < 0.25 and (kind, record) in told.now:
            self.record(told.full_refresh(record, day=day, kind=kind))
        else:
            self.record(told.land(record, body, day=day, kind=kind))
            told.clock += timedelta(hours=self.dice.choice([0, 7]))
        if self.changes and self.dice.random() < 0.4:
            address = self.dice.choice([each for each in EDITIONS if each.rpartition("/")[0] in self.told])
            self.files.change(address, self.dice.choice([None, *range(len(EDITIONS[address]))]))
        if self.dice.random() < 0.6:
            self.transform_pending(1)

    def transform_pending(self, most: int = 99) -> None:
        """Transforms pending days in a random order."""
        days = [
            (told.source, day) for told in self.told.values() for day in pending_partitions(self.warehouse, told.source)
        ]
        self.dice.shuffle(days)
        for source, day in days[:most]:
            self.record(transform(self.warehouse, source, day, shrink=True))

    def simulate(self, steps: int) -> None:
        """Makes a history of some steps, and transforms all that is pending at its end."""
        for _ in range(steps):
            self.step()
        self.transform_pending()


def tables(warehouse: Warehouse, schema: str = "catalog") -> Tables:
    """The rows of all tables of a schema as COPY writes them, without audit columns."""
    found = {}
    for table in metadata.sorted_tables:
        if table.schema == "catalog":
            columns = [column.name for column in table.columns if column.name not in audit_columns(table)]
            found[table.name] = rows(
                warehouse,
                sql.SQL("select {} from {} as t order by {}").format(
                    sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns),
                    sql.Identifier(schema, table.name),
                    sql.SQL(", ").join(sql.Identifier("t", column.name) for column in table.primary_key),
                ),
            )
    return found


def civitai_record(dice: random.Random) -> tuple[str, str, Json]:
    number = dice.randint(1, 4)
    if dice.random() < 0.4:
        return "images", str(number), any_listed(dice, number)
    body = any_model(dice, number) | {"description": dice.choice(["short", "long"])}
    for version in body["modelVersions"]:
        for file in version["files"]:
            file["sizeKB"] = dice.choice([1, 2])
    return "models", str(number), body


def danbooru_record(dice: random.Random) -> tuple[str, str, Json]:
    number = dice.randint(1, 3)
    if dice.random() < 0.4:
        return "tags", str(number), {"id": number, "name": f"tag_{number}", "category": dice.choice([0, 1])}
    tags = " ".join(f"tag_{each}" for each in some(dice, 4))
    return "posts", str(number), {"id": number, "rating": "g", "tag_string": tags, "score": dice.randint(1, 3)}


GENERATORS = {"catalog/civitai": civitai_record, "catalog/danbooru": danbooru_record}
"""For each source, a random kind, external_id and body."""
