"""The words that tables are declared with, on one `metadata`, and the functions that SELECTs share.

The tables of `ops` and `staging` are declared in the modules of these names, those of a domain in
`assets/<domain>/tables.py`, so that the engine can read from a table alone what it must know: its key, whether its rows
are owned by a record (`record_id`) or shared, which columns are audit columns, and every constraint that a row must
fit. Belongs here: words. Not: tables.
"""

from collections.abc import Sequence

from sqlalchemy import CheckConstraint, Column, MetaData, Table, Text, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

Timestamp = TIMESTAMP(timezone=True)


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """A CHECK that holds a text column to an enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


def limited(
    name: str, length: int, *, comment: str, nullable: bool = True, index: bool = False
) -> tuple[Column[object], CheckConstraint]:
    """A text column with a greatest length; varchar(n) would cut spaces beyond it without a word."""
    column: Column[object] = Column(name, Text, nullable=nullable, index=index, comment=comment)
    return column, CheckConstraint(f"length({name}) <= {length}", name=name)


def unique(*columns: str, nulls_not_distinct: bool = False) -> UniqueConstraint:
    """A unique constraint that rows may pass through while one transaction swaps them."""
    return UniqueConstraint(
        *columns,
        deferrable=True,
        initially="IMMEDIATE",
        postgresql_nulls_not_distinct=nulls_not_distinct or None,
    )


def record_column(*, nullable: bool = False) -> Column[object]:
    """The record that owns a row; the record's version in force is the row's proof.

    nullable: rows are shared, and live as long as something refers to them, unless a record of its own tells one.
    """
    return Column(
        "record_id",
        UUID,
        nullable=nullable,
        index=True,
        comment="Record (stream, external id) the row was derived from; staging.versions holds its proof"
        + ("; null = shared by the rows that refer to it" if nullable else ""),
    )


def created_column() -> Column[object]:
    return _audit_column("created_at", "When the row was first written")


def updated_column() -> Column[object]:
    return _audit_column("updated_at", "When the row last changed")


def _audit_column(name: str, comment: str) -> Column[object]:
    """Filled by the engine, not by a SELECT; outside of comparison, digest and rebuild."""
    return Column(name, Timestamp, nullable=False, server_default=func.now(), comment=comment, info={"audit": True})


def audit_columns(table: Table) -> set[str]:
    return {column.name for column in table.columns if column.info.get("audit")}


def domain_schema(name: str, comment: str) -> str:
    """Declares a domain's schema; its name, for the tables in it."""
    metadata.info.setdefault("schemas", {})[name] = comment
    return name


domain_schema("ops", "The ledger of every run, the sources, and functions that SELECTs share")
domain_schema("staging", "Raw payloads as the sources sent them, their versions, and what did not fit")
