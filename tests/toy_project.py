"""Makes tests/toy the project, in place of the project itself: its sources, SELECT files, recordings and tables.

    tests/toy/assets, sql, samples ──enter()──> what pipelines.project finds, in this process and in those it starts

A process that begins in tests/toy has that project too: Python finds its package `assets` first. Belongs here: which
project there is. Not here: what is in it (tests/toy), payloads for it (tests/library.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Table
from sqlalchemy.schema import CreateSchema

import assets
from pipelines import project
from pipelines.schema import migrate
from pipelines.schema.declare import metadata
from pipelines.schema.objects import DECLARED, SqlObject
from pipelines.warehouse.database import Warehouse

TOY = Path(__file__).parent / "toy"
ENGINE = ("ops", "staging")
OTHERS = project.domains()
"""The domains of the project itself."""


@dataclass(frozen=True)
class Declared:
    """What a project has declared: tables of its domains, functions and views, and comments of schemas."""

    tables: list[Table]
    objects: dict[str, SqlObject]
    schemas: dict[str, str]


def declared() -> Declared:
    tables = [table for table in metadata.tables.values() if table.schema not in ENGINE]
    return Declared(tables, dict(DECLARED), dict(metadata.info["schemas"]))


def declare(these: Declared) -> None:
    """Replaces what is declared."""
    for table in declared().tables:
        metadata.remove(table)
    for table in these.tables:
        metadata._add_table(table.name, table.schema, table)
    DECLARED.clear()
    DECLARED.update(these.objects)
    metadata.info["schemas"] = dict(these.schemas)
    for cached in (project.sources, project.selects):
        cached.cache_clear()


@cache
def declared_by_toy() -> Declared:
    """What tests/toy declares; first called where nothing but the engine is declared."""
    project.load_tables.__wrapped__()
    return declared()


@contextmanager
def enter() -> Iterator[None]:
    """Makes tests/toy the project for a while."""
    project.load_tables()
    before = declared()
    of_engine = {name: each for name, each in before.objects.items() if not name.startswith("marts.")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "__path__", [str(TOY / "assets")])
        for name, path in {"ROOT": TOY, **{name.upper(): TOY / name for name in ("assets", "sql", "samples")}}.items():
            patch.setattr(project, name, path)
        declare(Declared([], of_engine, {name: before.schemas[name] for name in ENGINE}))
        try:
            declare(declared_by_toy())
            yield
        finally:
            declare(before)


def is_entered() -> bool:
    return project.ROOT == TOY


def create_tables(warehouse: Warehouse) -> None:
    """Migrates a database, and creates the tables of the toy domain, which no migration makes."""
    of_toy = ("toy.", "ops.trace")
    of_tables = {
        each for each in project.objects() if each.kind in ("trigger", "policy") or each.name.startswith(of_toy)
    }
    migrate.migrate(warehouse, [each for each in project.objects() if each not in of_tables])
    with warehouse.engine.begin() as connection:
        connection.execute(CreateSchema("toy"))
        metadata.create_all(connection, declared().tables)
    migrate.migrate(warehouse, project.objects())
