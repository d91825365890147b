"""The SQL statements that write one table: prune, MERGE, delete unreferenced shared rows.

Each statement that writes returns one row: how many rows it changed, and by how much the digest of the table changes.
Belongs here: statements that hold for any table. Not: their order (`apply`).
"""

from psycopg import sql

from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.table_spec import TableSpec, names


def require_unique_keys(incoming: IncomingTable) -> sql.Composed:
    """Fails where `incoming` has a key twice. MERGE alone would update the row with one of them, in no order."""
    return sql.SQL("create unique index on {} ({})").format(incoming.identifier, names(incoming.spec.key))


OBSERVATIONS_OF_CHANGE_SET = """(
    select s.record_id, e.stream, e.observed_at
    from change_set_observations s join staging.observations e using (observation_id)
) c where t.observed_at = c.observed_at and"""


def prune(incoming: IncomingTable, *, referenced: bool = False) -> sql.Composed:
    """Deletes the rows of records of the change set that no SELECT yields any more, but those that are referenced.

    Returns for each stream: deleted, digest, and how many were kept because a row refers to them. referenced: deletes
    those too.
    """
    pruned = sql.SQL(
        """
        select t.ctid as place, c.stream, {referenced} as kept from {target} t, {records} t.record_id = c.record_id
          and not exists (select from {incoming} o where {same_key})
        """
    ).format(
        referenced=sql.SQL("false") if referenced else _is_referenced(incoming.spec),
        target=incoming.spec.target,
        records=sql.SQL(OBSERVATIONS_OF_CHANGE_SET if incoming.spec.time_series else "change_set c where"),
        incoming=incoming.identifier,
        same_key=incoming.spec.same_key("o", "t"),
    )
    shared = [sql.Identifier("t", column) for column, _ in _shared_references(incoming.spec)]
    return sql.SQL(
        """
        with pruned as materialized ({pruned}),
        deleted as (
            delete from {target} t using pruned p where t.ctid = p.place and not p.kept returning {returned}
        ){released}
        select p.stream, count(*) filter (where not p.kept) as deleted, count(*) filter (where p.kept) as kept,
            coalesce((select sum(d.hash) from deleted d where d.stream = p.stream), 0) as digest
        from pruned p group by p.stream
        """
    ).format(
        pruned=pruned,
        target=incoming.spec.target,
        returned=sql.SQL(", ").join([sql.SQL("p.stream, {} as hash").format(incoming.spec.row_hash("t")), *shared]),
        released=_insert_released(incoming.spec, "deleted"),
    )


def rows_of_stream(spec: TableSpec, stream: str, limit: int) -> sql.Composed:
    """Selects the rows of a stream before the run, but no more than a limit."""
    return sql.SQL(
        "select from staging.effective_versions e join {} t using (record_id) where e.stream = {} limit {}"
    ).format(spec.target, sql.Literal(stream), sql.Literal(limit))


def released(spec: TableSpec) -> sql.Identifier:
    """The temporary table for keys of a shared table to which a row no longer refers."""
    return sql.Identifier(f"released_{spec.table.name}")


def delete_unreferenced(spec: TableSpec) -> sql.Composed:
    """Deletes shared rows that this run stopped referring to and no other row refers to.

    Returns what `prune` returns, of all streams.
    """
    (key,) = spec.key
    delete = sql.SQL(
        "delete from {target} t where t.{key} in (select key from {released}) and not {referenced}"
    ).format(
        target=spec.target,
        key=sql.Identifier(key),
        released=released(spec),
        referenced=_is_referenced(spec),
    )
    return sql.SQL(
        "with deleted as ({} returning {} as hash)"
        " select count(*) as deleted, coalesce(sum(hash), 0) as digest, 0 as kept from deleted"
    ).format(delete, spec.row_hash("t"))


def merge(incoming: IncomingTable) -> sql.Composed:
    """Inserts the new rows of `incoming` and updates those that differ; returns created, updated, yielded, digest."""
    columns = incoming.spec.content
    merged = sql.SQL(
        """
        merge into {target} t using ({typed_rows}) s on {same_key}
        {update}
        when not matched then insert ({columns}) values ({values})
        returning merge_action() as action, {new} - case merge_action() when 'UPDATE' then {old} else 0 end as hash
            {replaced}
        """
    ).format(
        target=incoming.spec.target,
        typed_rows=incoming.typed_rows(),
        same_key=incoming.spec.same_key("t", "s"),
        update=_update(incoming, [column for column in columns if column not in incoming.spec.key]),
        columns=names(columns),
        values=names(columns, "s"),
        new=incoming.spec.row_hash("new"),
        old=incoming.spec.row_hash("old"),
        replaced=sql.SQL("").join(
            sql.SQL(", case when old.{0} is distinct from new.{0} then old.{0} end as {0}").format(
                sql.Identifier(column)
            )
            for column, _ in _shared_references(incoming.spec)
        ),
    )
    return sql.SQL(
        """
        with merged as ({merged}){released}
        select count(*) filter (where action = 'INSERT') as created,
            count(*) filter (where action = 'UPDATE') as updated,
            coalesce(sum(hash), 0) as digest,
            (select count(*) from {incoming}) as yielded
        from merged
        """
    ).format(merged=merged, released=_insert_released(incoming.spec, "merged"), incoming=incoming.identifier)


def _update(incoming: IncomingTable, columns: list[str]) -> sql.Composable:
    """The branch of MERGE that updates a row which differs in one of some columns."""
    if not columns:
        return sql.SQL("")
    return sql.SQL("when matched and record_image_ne(row({old}), row({new})) then update set {assignments}").format(
        old=names(columns, "t"),
        new=names(columns, "s"),
        assignments=sql.SQL(", ").join([_assign(column) for column in columns] + incoming.spec.audit_assignments()),
    )


def _assign(column: str) -> sql.Composed:
    """The assignment of a column. An owned row of a record outside the change set must not change its owner: its
    record_id becomes NULL, which the table refuses, and the rows are validated.
    """
    if column != "record_id":
        return sql.SQL("{} = {}").format(sql.Identifier(column), sql.Identifier("s", column))
    return sql.SQL(
        """record_id = case
            when t.record_id = s.record_id or exists (select from change_set c where c.record_id = t.record_id)
            then s.record_id
        end"""
    ).format()


def _shared_references(spec: TableSpec) -> list[tuple[str, sql.Identifier]]:
    """The references to shared tables: column, and the temporary table for keys that it no longer refers to."""
    return [
        (each.column, released(TableSpec(each.table))) for each in spec.references if not TableSpec(each.table).owned
    ]


def _insert_released(spec: TableSpec, changed: str) -> sql.Composed:
    """CTEs that keep the keys of shared rows to which a changed row referred; changed: the CTE that returns these."""
    return sql.SQL("").join(
        sql.SQL(", {} as (insert into {} select {} from {} where {} is not null)").format(
            sql.Identifier(f"released_by_{column}"),
            keys,
            sql.Identifier(column),
            sql.Identifier(changed),
            sql.Identifier(column),
        )
        for column, keys in _shared_references(spec)
    )


def _is_referenced(spec: TableSpec) -> sql.Composable:
    """The condition that any row refers to a row `t`."""
    referring = [
        sql.SQL("exists (select from {} r where r.{} = t.{})").format(
            TableSpec(table).target, sql.Identifier(reference.column), sql.Identifier(*spec.key)
        )
        for table in spec.table.metadata.sorted_tables
        for reference in TableSpec(table).references
        if reference.table is spec.table
    ]
    return sql.SQL("({})").format(sql.SQL(" or ").join(referring)) if referring else sql.SQL("false")
