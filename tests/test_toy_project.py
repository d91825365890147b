"""The toy project: a process that begins in its folder has it, and its recordings fill every one of its tables."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import project
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.declare import metadata
from tests import toy_project

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.long("loads the recordings of a project")
def test_its_recordings_fill_every_table_in_a_process_of_their_own(warehouse: Warehouse, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli.main", "--home", str(tmp_path), "run", "--json"]
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    done = subprocess.run(command, cwd=project.ROOT, env=environment, capture_output=True, text=True, check=False)
    warehouse.drop_database(str(warehouse.dagster_url.database))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {run["status"] for run in found["runs"]} == {"completed"}
    assert all(found["rows"].values())
    assert set(found["rows"]) == {table.fullname for table in metadata.tables.values() if table.schema == "toy"}


def test_it_is_the_only_project_while_it_is_entered() -> None:
    assert project.domains() == ["toy"]
    assert list(project.sources()) == ["toy/library", "toy/shelf", "toy/shop"]
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
