"""Sources that name users, and an application that writes beside them."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pipelines import project
from pipelines.warehouse.database import Warehouse
from tests.forum import Write
from tests.library import Recorder


@pytest.fixture
def forum(warehouse: Warehouse) -> Recorder:
    """Names users by their names, from which their keys are computed."""
    return Recorder(warehouse, project.sources()["toy/forum"])


@pytest.fixture
def mail(warehouse: Warehouse) -> Recorder:
    """Has keys of its own for users; its rows win before those of the forum."""
    return Recorder(warehouse, project.sources()["toy/mail"])


@pytest.fixture
def write(warehouse: Warehouse) -> Iterator[Write]:
    """Executes a statement as an application; returns the first value of the first row."""
    with psycopg.connect(warehouse.conninfo, autocommit=True) as application:

        def execute(statement: str, *values: Any) -> Any:
            cursor = application.execute(statement.encode(), values)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

        yield execute
