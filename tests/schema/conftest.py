"""The schema of a database as text."""

import os
import subprocess
from collections.abc import Callable

import pytest

from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse


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
