"""What proves a row: the payload version that it was derived from, the request, the runs and the SELECT file.

table, key ──ops.trace──> version ──> payload, request, landing · the run and SELECT file that derived the row
                 └── no row? staging.erasures ──> when the record was erased
"""

from typing import Any

import psycopg
from psycopg import sql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.schema.declare import metadata
from pipelines.schema.functions import trace_query
from pipelines.schema.table_spec import TableSpec
from pipelines.warehouse.database import Connection


def find_table(name: str) -> TableSpec:
    """A table of a domain, by `schema.table`. Raises AtlasError where there is none."""
    project.load_tables()
    known = [table.fullname for table in metadata.sorted_tables if table.schema in project.domains()]
    if name not in known:
        raise AtlasError(f"There is no table {name!r} of a domain. There are: {', '.join(known)}.", usage=True)
    return TableSpec(metadata.tables[name])


def trace(connection: Connection, table: str, key: str) -> dict[str, Any]:
    """One row and what leads from it to its source: the row of `ops.trace` (`proof`), the rows of the ledger (`landed`,
    `derived`), the text of the SELECT file, the body, and in a series the counters that the row was derived from.

    key: its primary key, columns separated by spaces, or its external_id. Raises AtlasError unless one row is proved.
    """
    spec = find_table(table)
    row, primary_key = _find_row(connection, spec, key)
    if spec.kind == "application" or (spec.applications and not row["from_source"]):
        raise AtlasError(f"{table} {primary_key} is a row of an application: no source has it.")
    proof = connection.execute(trace_query(spec, _key_condition(spec, primary_key))).fetchone() or {}
    found = connection.execute(
        """
        select to_jsonb(l) as landed, to_jsonb(d) as derived, s.text as sql, p.body,
            (select counters from staging.observations where observation_id = %s) as counters
        from ops.fetch_runs l, ops.fetch_runs d, ops.sql s, staging.payloads p
        where (l.fetch_run_id, d.fetch_run_id, s.digest, p.payload_id) = (%s, %s, %s, %s)
        """,
        [proof.get(name) for name in ("observation_id", "landed_run", "derived_run", "sql_digest", "payload_id")],
    ).fetchone()
    if found is None:
        raise AtlasError(
            f"Nothing proves {table} {primary_key}: it was not written by Model Atlas, or staging was changed by hand. "
            f"Compare the tables with staging: atlas rebuild {spec.table.schema} --check"
        )
    return {"row": row, "proof": proof, **found}


def _find_row(connection: Connection, spec: TableSpec, key: str) -> tuple[dict[str, Any], str]:
    """The row with a primary key or an external_id, and its primary key as `ops.trace` writes it."""
    conditions = [_key_condition(spec, key)]
    if "external_id" in spec.table.columns:
        conditions.append(sql.SQL("t.external_id = {}").format(sql.Literal(key)))
    for condition in conditions:
        query = sql.SQL("select {} as key, to_jsonb(t) as row from {} t where {} limit 9")
        try:
            with connection.transaction():
                rows = connection.execute(query.format(spec.key_text("t"), spec.target, condition)).fetchall()
        except psycopg.DataError:  # the text is not a value of the key's type
            continue
        if len(rows) == 1:
            return rows[0]["row"], rows[0]["key"]
        if rows:
            keys = f"Name one by its key: {'; '.join(row['key'] for row in rows)}"
            raise AtlasError(f"Several rows of {spec.name} have the id {key!r}. {keys}", usage=True)
    if notice := erasure_notice(connection, str(spec.table.schema), key):
        raise AtlasError(notice)
    separated = ", separated by a space" if len(spec.key) > 1 else ""
    or_id = ", or external_id" if "external_id" in spec.table.columns else ""
    message = f"{spec.name} has no row {key!r}. Its key is {' and '.join(spec.key)}{separated}{or_id}."
    raise AtlasError(message, usage=True)


def _key_condition(spec: TableSpec, key: str) -> sql.Composable:
    """The condition that a row `t` has a primary key, typed so that an index is used."""
    values = key.split(" ", len(spec.key) - 1)
    if len(values) < len(spec.key):
        return sql.SQL("false")
    return sql.SQL(" and ").join(
        sql.SQL("t.{} = {}::{}").format(sql.Identifier(column), sql.Literal(value), sql.SQL(spec.type_of(column)))
        for column, value in zip(spec.key, values, strict=True)
    )


def unproven(connection: Connection, table: str | None = None) -> list[dict[str, Any]]:
    """How many rows a table, or each table of each domain, has, and how many of them nothing proves."""
    project.load_tables()
    return connection.execute(
        """
        select table_name, count(*) as rows,
            count(*) filter (
                where t.version_id is null or t.sql_digest is null
                   or not exists (select from ops.sql s where s.digest = t.sql_digest)
                   or not exists (select from ops.fetch_runs r where r.fetch_run_id = t.landed_run)
            ) as unproven
        from ops.trace t
        where %(table)s::text is null or table_name = %(table)s
        group by table_name
        order by table_name
        """,
        {"table": table},
    ).fetchall()


def erasure_notice(connection: Connection, stream_prefix: str, key: str) -> str | None:
    """When a record was erased and by which run, in words; None if it was not. key: its external_id or record_id."""
    row = connection.execute(
        """
        select e.* from staging.erasures e
        where starts_with(e.stream, %(stream_prefix)s)
          and (e.record_id = ops.key(e.stream, %(key)s) or e.record_id::text = lower(%(key)s))
        order by e.erased_at desc limit 1
        """,
        {"stream_prefix": stream_prefix, "key": key},
    ).fetchone()
    if row is None:
        return None
    notice = (
        f"Record {key!r} of {row['stream']} was erased at {row['erased_at']:%Y-%m-%d %H:%M} UTC by run "
        f"{row['fetch_run_id']}. Only the digest {bytes(row['digest']).hex()[:16]}… of it is kept."
    )
    if row["lifted_at"] is not None:
        notice += f" The erasure was lifted on {row['lifted_at']:%Y-%m-%d}: the record can land again."
    return notice
