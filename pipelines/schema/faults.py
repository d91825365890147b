"""Faults of the declarations of tables: what the engine could not keep the promises of."""

from collections.abc import Iterator

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import TIMESTAMP

from pipelines.errors import AtlasError
from pipelines.schema.extensions import extension_of
from pipelines.schema.table_spec import TableSpec


def check_declaration(table: Table) -> None:
    """Raises AtlasError where the engine could not keep what a declaration promises."""
    for fault in _faults(TableSpec(table)):
        raise AtlasError(f"The declaration of {table.fullname} is wrong: it {fault}. Correct assets/{table.schema}/.")


def _faults(spec: TableSpec) -> Iterator[str]:
    """What is wrong with a declaration, in words that follow the name of the table."""
    if "kind" not in spec.table.info:
        yield "does not say whose its rows are: declare it with owned(), shared() or application()"
    if not spec.key:
        yield "has no primary key"
    if spec.identity and len(spec.key) != 1:
        yield "has an identity, so its primary key must be one column"
    for constraint in spec.constraints(ForeignKeyConstraint):
        parent = TableSpec(constraint.referred_table)
        if len(constraint.columns) != 1:
            yield f"has the foreign key {constraint.name} of several columns"
        if parent.table.schema not in (spec.table.schema, "ops"):
            yield f"refers to {parent.name}, which is in another domain"
        if parent.table.schema == "ops" or not spec.written_by_applications:
            continue
        if not parent.written_by_applications:
            yield (
                f"has rows of applications that refer to {parent.name}, where a source may delete rows: declare "
                f"{parent.name} with applications=True"
            )
    for unique in spec.constraints(UniqueConstraint):
        if unique.deferrable:
            yield f"has the deferrable constraint {unique.name}, with which applications cannot upsert"
    for column in spec.table.columns:
        if "strict" in column.info and not (column.info["strict"] is True and column.name in spec.optional):
            yield f"has the strict column {column.name}: only a column that would become NULL can be `strict: True`"
        if extension_of(column) and not (column.nullable and isinstance(column.type, VECTOR)):
            yield f"has the column {column.name} of an extension, which must be of the type VECTOR and may be null"
    if spec.table.dialect_options["postgresql"]["partition_by"]:
        key_type = spec.table.columns[spec.partition_column].type if spec.partition_column in spec.key[1:] else None
        if not isinstance(key_type, TIMESTAMP):
            yield (
                "is partitioned, which must be by range of one timestamp that follows the other columns of its primary "
                "key: postgresql_partition_by='RANGE (happened_at)'"
            )
        if spec.identity or len(spec.unique_keys) > 1:
            yield "is partitioned, so PostgreSQL cannot keep anything unique but its primary key"
