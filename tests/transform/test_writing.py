"""What a write compares, and what the digest of a table holds: every byte of every column."""

import pytest
from psycopg import sql
from sqlalchemy import Table

from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Source
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from tests.library import Recorder, author, shown

pytestmark = pytest.mark.usefixtures("toy")

VALUES = {
    "uuid": "uuidv7()",
    "text": "'one'",
    "text[]": "array['one']",
    "jsonb": "'{}'",
    "numeric": "1",
    "integer": "1",
    "bigint": "1",
    "timestamp with time zone": "now()",
    "boolean": "true",
    "tsvector": "'one'",
    "vector(3)": "'[1, 2, 3]'",
}
"""A value of each type that a table of the toy domain has."""


def test_a_number_with_another_scale_is_written(warehouse: Warehouse, library: Source) -> None:
    recorder = Recorder(warehouse, library)
    for shoe in (1, 1.0):
        recorder.land("1", author(1, shoe=shoe))
        recorder.transform()
    assert shown(warehouse, "select raw ->> 'shoe' from toy.authors") == ["1.0"]


def test_a_change_of_any_column_changes_the_digest_of_its_table(warehouse: Warehouse) -> None:
    tables = [table for table in metadata.sorted_tables if table.schema == "toy"]
    tables = [table for table in tables if TableSpec(table).kind != "application"]  # no row of it is from a source
    assert tables
    for table in tables:
        with warehouse.connect() as connection, connection.transaction(force_rollback=True):
            bare = sql.SQL("create temp table {0} as select * from toy.{0} limit 0; insert into {0} default values")
            connection.execute(bare.format(sql.Identifier(table.name)))
            if TableSpec(table).applications:
                connection.execute(sql.SQL("update {} set from_source = true").format(sql.Identifier(table.name)))
            copy = TableSpec(table.to_metadata(metadata.__class__(), schema="pg_temp"))
            before = table_digests.count(connection, copy)
            for column, kind in _types(table).items():
                change = sql.SQL("update pg_temp.{} set {} = {}").format(
                    sql.Identifier(table.name), sql.Identifier(column), sql.SQL(VALUES[kind])
                )
                connection.execute(change)
                after = table_digests.count(connection, copy)
                assert (before != after) == (column in copy.content), f"{table.fullname}.{column}"
                before = after


def _types(table: Table) -> dict[str, str]:
    """The columns of a table with their types, without lengths."""
    spec = TableSpec(table)
    return {column.name: spec.type_of(column.name).lower() for column in table.columns}
