"""Databases without tables, and their schema as text."""

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse


@pytest.fixture
def empty(template: Warehouse) -> Iterator[Callable[[str], Warehouse]]:
    """Makes a database without any table."""
    made: list[Warehouse] = []

    def make(name: str) -> Warehouse:
        warehouse = Warehouse(template.url.set(database=f"{template.database}_{name}"))
        warehouse.drop_database(warehouse.database)
        warehouse.create_database(warehouse.database)
        made.append(warehouse)
        return warehouse

    yield make
    for warehouse in made:
        warehouse.drop_database(warehouse.database)


@pytest.fixture
def dump() -> Callable[[Warehouse], list[str]]:
    """The schema as pg_dump writes it, less Alembic's own table and the dump's random tokens."""

    def dumped(warehouse: Warehouse) -> list[str]:
        command = [
            str(embedded.BIN / "pg_dump"),
            "--schema-only",
            "--exclude-table=alembic_version",
            warehouse.conninfo,
        ]
        written = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
        return [line for line in written.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]

    return dumped
