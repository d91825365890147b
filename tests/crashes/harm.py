"""Harm to the product that the crash tests must notice: each function makes one mistake in the process that calls it.

Belongs here: mistakes. Not here: who makes them (`runner`), who must notice (`tests/promises/test_i7_crash.py`).
"""

import os
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pipelines.landing import land, stage_bodies
from pipelines.landing.intake import save_checkpoint
from pipelines.ledger import Counts, Run
from pipelines.warehouse.database import Connection


def _elsewhere() -> Connection:
    """Another connection, which commits at once."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)


def ledger_row_before_the_data() -> None:
    """The ledger row is committed before the data."""
    publish = land.publish  # type: ignore[attr-defined]

    def early(run: Run, *others: Any) -> None:
        own = run.connection
        with _elsewhere() as run.connection:
            run.close(Counts(), {})
        run.connection = own
        publish(run, *others)

    land.publish = early  # type: ignore[attr-defined, assignment]


def checkpoint_before_its_page() -> None:
    """A checkpoint is committed before the page that it says was landed."""
    write = stage_bodies.BodyWriter._write

    def early(self: stage_bodies.BodyWriter, rows: Any, arrivals: Any, rejected: Any, checkpoint: bool) -> None:
        if checkpoint:
            with _elsewhere() as other:
                save_checkpoint(other, self.run, self.progress)
        write(self, rows, arrivals, rejected, False)

    stage_bodies.BodyWriter._write = early  # type: ignore[method-assign]
