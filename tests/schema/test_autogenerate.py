"""`atlas db revision`: the migration that it writes holds what changed in the declarations, applies and reverses."""

import ast
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    Connection,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from typer.testing import CliRunner

from pipelines import project
from pipelines.cli import context, db
from pipelines.errors import AtlasError
from pipelines.schema import autogenerate, declare, migrate, partitions
from pipelines.schema.declare import declare_schema, limited_text, one_of
from pipelines.warehouse.database import Warehouse
from tests.databases import has_vectors
from tests.library import shown

COMMENT = "Toys: theirs, 50% of them"

Dump = Callable[[Warehouse], list[str]]


def read_from(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a folder the place of migrations instead of migrations/versions."""
    config = migrate.config

    def config_of_folder(connection: Connection | None = None) -> Config:
        found = config(connection)
        found.set_main_option("path_separator", "newline")
        found.set_main_option("version_locations", str(folder))
        return found

    patch.setattr(migrate, "config", config_of_folder)


@pytest.fixture(scope="module")
def first(server: str, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warehouse, Path]]:
    """A database with the toy domain, and the folder of the migration that made it."""
    project.load_tables()
    folder = tmp_path_factory.mktemp("versions")
    warehouse = Warehouse(make_url(server).set(database=f"toys_{worker_id}"))
    warehouse.create_database(warehouse.database)
    if has_vectors(warehouse):
        with warehouse.connect() as connection:
            connection.execute("create extension vector")  # no downgrade drops it
    with pytest.MonkeyPatch.context() as patch:
        read_from(folder, patch)
        toys(patch)
        written(warehouse, "Toys")
        migrate.migrate(warehouse, ())
    yield warehouse, folder
    warehouse.drop_database(warehouse.database)


@pytest.fixture
def warehouse(
    first: tuple[Warehouse, Path],
    tmp_path: Path,
    copied: Callable[[Warehouse], Warehouse],
    monkeypatch: pytest.MonkeyPatch,
) -> Warehouse:
    """A database with the toy domain; what is written goes to a folder of the test's own."""
    shutil.copytree(first[1], tmp_path / "versions", ignore=shutil.ignore_patterns("__pycache__"))
    read_from(tmp_path / "versions", monkeypatch)
    return copied(first[0])


def toys(
    monkeypatch: pytest.MonkeyPatch,
    *,
    comment: str = COMMENT,
    table_comment: str | None = "One row a toy",
    weight: str = "weight between 1 and 100",
    kinds: tuple[str, ...] = ("ball", "kite"),
    default: str = "0",
    columns: Callable[[], Iterable[Any]] = tuple,
    more: Callable[[MetaData], object] = lambda _: None,
) -> None:
    """Declares a toy domain. columns: of its table, beyond the usual ones; more: declares what else there is."""
    metadata = MetaData(naming_convention=declare.metadata.naming_convention)
    monkeypatch.setattr(declare, "metadata", metadata)
    declare_schema("toys", comment)
    Table(
        "toys",
        metadata,
        Column("toy_id", BigInteger, Identity(always=True), primary_key=True, comment="Number of the toy"),
        *limited_text("name", 50, comment="As its owner calls it"),
        Column("kind", Text, nullable=False, comment="What it is"),
        one_of("kind", kinds),
        Column("weight", Integer, server_default=text(default), comment="In grams"),
        CheckConstraint(weight, name="weight"),
        *columns(),
        schema="toys",
        comment=table_comment,
    )
    more(metadata)


def shelf(metadata: MetaData) -> None:
    """Declares another domain, with a table that has what is hard to render."""
    declare_schema("shelf", "What is on the shelf")
    Table(
        "parts",
        metadata,
        Column("part_id", BigInteger, primary_key=True, comment="Number of the part"),
        Column("raw", JSONB, nullable=False, server_default=text("'{}'"), comment='It is called "raw"'),
        Column("colors", ARRAY(Text), comment="Owner's 50%"),
        Column("words", TSVECTOR, Computed("to_tsvector('simple', raw ->> 'a:b')", persisted=True), comment="Words"),
        Column("embedding", VECTOR(3), comment="A vector"),
        CheckConstraint("part_id % 2 = 0 and raw::text not like '%x:y%'", name="even"),
        Index(None, "raw", postgresql_using="gin", postgresql_ops={"raw": "jsonb_path_ops"}),
        Index("parts_one_key", "colors", unique=True, postgresql_where=text("part_id > 0")),
        schema="shelf",
        prefixes=["unlogged"],
        comment="One row a part",
    )
    Table(
        "uses",
        metadata,
        Column("use_id", BigInteger, primary_key=True, comment="Number of the use"),
        Column("used_at", declare.Timestamp, primary_key=True, comment="When"),
        schema="shelf",
        postgresql_partition_by="RANGE (used_at)",
        comment="One row a use",
    )


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "schema comment": ({"comment": "It's of :all"}, ["comment on schema toys is 'It''s of \\\\:all'"]),
    "table comment": ({"table_comment": "A toy"}, ["create_table_comment", '"A toy"']),
    "no table comment": ({"table_comment": None}, ["drop_table_comment"]),
    "check text": ({"weight": "weight between 1 and 99"}, ['drop_constraint(op.f("toys_weight_check")', "1 and 99"]),
    "enumeration grows": ({"kinds": ("ball", "kite", "doll")}, ["kind in ('ball', 'kite', 'doll')"]),
    "default": ({"default": "1"}, ["alter_column"]),
    "new column": (
        {"columns": lambda: [Column("owner", JSONB, comment="Whose it is")]},
        ['sa.Column("owner", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Whose it is")'],
    ),
    "new check of a new column": (
        {"columns": lambda: limited_text("owner", 9, comment="Whose it is"), "weight": "weight > length(owner)"},
        ["create_check_constraint(", "length(owner) <= 9", "weight > length(owner)"],
    ),
    "new index": ({"columns": lambda: [Index(None, "kind", "weight")]}, ['create_index(op.f("toys_kind_weight_idx")']),
    "new schema and table": (
        {"more": shelf},
        ["create schema shelf", "comment on schema shelf is 'What is on the shelf'", "create_table(", "jsonb_path_ops"],
    ),
}


def written(warehouse: Warehouse, message: str) -> str:
    path = autogenerate.write(warehouse, message)
    assert path is not None
    return path.read_text()


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.sample(4)
def test_a_change_is_written_applied_and_reversed(
    name: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, dump: Dump, downgrade: Callable[..., None]
) -> None:
    change, words = CHANGES[name]
    first, before = migrate.head(), dump(warehouse)
    toys(monkeypatch, **change)
    text = written(warehouse, f"A change: {name}")
    assert [each for each in words if each not in text] == []
    migrate.migrate(warehouse, ())
    assert autogenerate.write(warehouse, "Nothing") is None
    assert dump(warehouse) != before
    downgrade(warehouse, str(first))
    assert dump(warehouse) == before


def test_what_is_no_longer_declared_is_dropped(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, dump: Dump
) -> None:
    before = dump(warehouse)
    with warehouse.connect() as connection:
        connection.execute("create schema theirs create table theirs (id bigint)")
    with_theirs = dump(warehouse)
    toys(monkeypatch, columns=lambda: [Index(None, "kind")], more=shelf)
    written(warehouse, "More")
    migrate.migrate(warehouse, ())
    with warehouse.connect() as connection:
        connection.execute("insert into shelf.uses values (1, '2026-10-01')")
    partitions.split_defaults(warehouse, "shelf")
    assert shown(warehouse, "select tableoid::regclass::text from shelf.uses") == ["shelf.uses_2026_10"]
    assert autogenerate.write(warehouse, "Nothing") is None
    toys(monkeypatch)
    text = written(warehouse, "Less")
    assert "drop schema shelf" in text and "theirs" not in text
    migrate.migrate(warehouse, ())
    assert dump(warehouse) == with_theirs != before


def test_a_check_that_says_the_same_in_other_words_is_unchanged(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys(monkeypatch, weight="(weight >= 1) AND weight<=100", kinds=("ball", "kite"))
    assert autogenerate.write(warehouse, "Nothing") is None


def test_the_file_is_named_by_date_and_text_and_formatted(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys(monkeypatch, table_comment="A toy")
    path = autogenerate.write(warehouse, 'Say "a toy" \\ not a row, in the comment')
    assert path == tmp_path / "versions" / f"{datetime.now(UTC):%Y_%m_%d}_say_a_toy_not_a_row_i.py"
    assert len(path.stem) == 32 == autogenerate.ID_LENGTH
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)) == 'Say "a toy" \\ not a row, in the comment'
    assert f'revision = "{path.stem}"' in text and "import postgresql" not in text and "###" not in text
    migrate.migrate(warehouse, ())
    with pytest.raises(AtlasError, match=f"A migration {path.stem} exists already"):
        autogenerate.write(warehouse, "Say a toy, not a row, in it")
    with pytest.raises(AtlasError, match="no letter or digit"):
        autogenerate.write(warehouse, "…")


def test_a_migration_is_written_without_ruff(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    toys(monkeypatch, more=shelf)
    written(warehouse, "Shelf")
    migrate.migrate(warehouse, ())
    assert autogenerate.write(warehouse, "Nothing") is None


def test_a_migration_is_written_against_the_newest_revision_alone(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys(monkeypatch, table_comment="A toy")
    written(warehouse, "A toy")
    with pytest.raises(AtlasError, match=r"is at revision \w+_toys, but .* Run: atlas db migrate"):
        autogenerate.write(warehouse, "Another")
    warehouse.drop_database(warehouse.database)
    with pytest.raises(AtlasError, match=r"is at revision none, but .* Run: atlas db migrate"):
        autogenerate.write(warehouse, "Another")


def test_the_tables_of_the_project_are_as_its_migrations_make_them(
    new_warehouse: Callable[[], Warehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project.ROOT / "migrations" / "versions", tmp_path / "versions")
    read_from(tmp_path / "versions", monkeypatch)
    made = new_warehouse()
    monkeypatch.setattr(context, "flags", {"database_url": made.conninfo})
    done = CliRunner().invoke(db.app, ["revision", "-m", "Nothing"])
    assert (done.exit_code, done.stdout) == (0, "The tables are as declared: there is nothing to write.\n")
    made.drop_database(made.database)
