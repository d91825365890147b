"""The toy project: a process that begins in its folder has it, and its recordings fill every one of its tables."""

import os
import re
import subprocess
import sys

import pytest

from pipelines import project
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.warehouse.database import Warehouse
from tests import toy_project
from tests.launcher import words
from tests.library import load_recordings, rows

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.long("commands, each a process")
def test_its_recordings_fill_every_table(warehouse: Warehouse) -> None:
    load_recordings(warehouse)
    for table in metadata.sorted_tables:
        if table.schema == "toy" and TableSpec(table).kind != "application":
            assert rows(warehouse, f"select from {table.fullname} limit 1"), table.fullname


@pytest.mark.long("commands, each a process")
def test_a_process_that_begins_in_its_folder_has_it(warehouse: Warehouse) -> None:
    command = [sys.executable, "-m", "pipelines.cli.main", "run", "nothing"]
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    done = subprocess.run(command, cwd=toy_project.TOY, env=environment, capture_output=True, text=True)
    assert (
        "There are: toy/forum, toy/library.authors, toy/library.covers, toy/mail, toy/shelf, toy/shop, toy/staff."
        in words(done.stderr)
    )


def test_it_is_the_only_project_while_it_is_entered() -> None:
    assert project.domains() == ["toy"]
    assert {source.partition("/")[0] for source in project.sources()} == {"toy"}
    assert {table.schema for table in metadata.tables.values()} == {"ops", "staging", "toy"}


def test_tests_of_the_engine_name_no_domain_of_the_project() -> None:
    folders = [toy_project.TOY.parent / name for name in ("transform", "lineage", "maintenance")]
    tests = [path for folder in folders for path in folder.glob("*.py")]
    assert len(tests) > 5
    named = re.compile(rf"\b({'|'.join(toy_project.OTHERS)})[./\"]")
    assert [path.name for path in tests if named.search(path.read_text())] == []


def test_the_project_is_as_before_when_it_is_left() -> None:
    inside = toy_project.declared()
    with toy_project.enter():
        pass
    assert toy_project.declared() == inside
