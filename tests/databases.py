"""Copies of databases, as templates of PostgreSQL, and what a server has."""

from psycopg import sql

from pipelines.schema.privileges import LOADER
from pipelines.warehouse.database import Warehouse


def copy_of(origin: Warehouse, name: str) -> Warehouse:
    """A copy of a database, in place of the one that has this name."""
    copy = Warehouse(origin.url.set(database=name))
    origin.close()  # a database in use cannot be copied
    with origin.connect("postgres") as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(origin.database)
            )
        )
        grant = sql.SQL("grant all on database {} to {}")  # privileges on a database are not copied
        connection.execute(grant.format(sql.Identifier(name), sql.Identifier(LOADER)))
    return copy


def waits_for(kind: str) -> str:
    """A query for the sessions of a database that wait for a lock of a kind, as `advisory` or `relation`."""
    return f"""
        select pid from pg_locks where locktype = '{kind}' and not granted and pid in (
            select l.pid from pg_locks l join pg_database d on d.oid = l.database where d.datname = current_database())
    """


def has_vectors(warehouse: Warehouse) -> bool:
    """Whether the server has the extension of vectors: the embedded one has, a container of `postgres:18` has not."""
    with warehouse.connect() as connection:
        available = "select from pg_available_extensions where name = 'vector'"
        return bool(connection.execute(available).rowcount)
