"""The statements that write a table: what is taken away, what is merged, and what nothing refers to any more.

Each is one statement over a `Shape` and its temporary tables, and tells how many rows it touched and what that adds to
the table's digest, or takes off it. Belongs here: statements that hold for any table. Not: their order (`deriving`).
"""

from psycopg import sql

from pipelines.warehouse.table_spec import TableSpec, names

SEEN = """(select seen.record_id, e.observed_at from seen join staging.observations e using (observation_id)) s
where t.observed_at = s.observed_at and"""

KEPT = """and (
    s.record_id is not null or t.record_id is null
    or exists (select from scope c where c.record_id = t.record_id))"""
"""A mention changes nothing of what a record of its own tells, unless that is in scope and tells it no more."""


def prune(shape: TableSpec, *, referred: bool = False) -> sql.Composed:
    """Deletes rows of the records in scope that are no longer yielded; notes the shared keys they let go.

    One row of how many there were, the sum of their hashes, and how many are held by rows that refer to them. referred:
    those go too.
    """
    doomed = sql.SQL(
        """
        select t.ctid as place, {held} as held from {target} t, {scope} t.record_id = s.record_id
          and not exists (select from {incoming} o where {same_key})
        """
    ).format(
        held=sql.SQL("false") if referred else _referred(shape),
        target=shape.target,
        scope=sql.SQL(SEEN if shape.series else "scope s where"),
        incoming=shape.incoming,
        same_key=shape.same_key("o", "t"),
    )
    shared = shape.shared_references()
    returned = [sql.SQL("{} as hash").format(shape.hashed("t")), *(sql.Identifier("t", name) for name, _ in shared)]
    notes = [
        sql.SQL(", {} as (insert into {} select {} from gone)").format(
            sql.Identifier(f"note_{column}"), loose, sql.Identifier(column)
        )
        for column, loose in shared
    ]
    return sql.SQL(
        """
        with doomed as materialized ({doomed}),
        gone as (
            delete from {target} t using doomed d where t.ctid = d.place and not d.held returning {returned}
        ){notes}
        select count(*) as deleted, coalesce(sum(hash), 0) as digest,
            (select count(*) from doomed where held) as held
        from gone
        """
    ).format(doomed=doomed, target=shape.target, returned=sql.SQL(", ").join(returned), notes=sql.SQL("").join(notes))


def _referred(shape: TableSpec) -> sql.Composable:
    """Whether any row refers to a row."""
    referring = [
        sql.SQL("exists (select from {} r where r.{} = t.{})").format(
            TableSpec(table).target, sql.Identifier(reference.column), sql.Identifier(*shape.key)
        )
        for table in shape.table.metadata.sorted_tables
        for reference in TableSpec(table).references
        if reference.table is shape.table
    ]
    return sql.SQL("({})").format(sql.SQL(" or ").join(referring)) if referring else sql.SQL("false")


def merge(shape: TableSpec) -> sql.Composed:
    """Writes `incoming`: inserts what is new, updates what differs; one row of created, updated, yielded, digest.

    A row that another record owns, outside the scope, must not be taken from it: its record_id then becomes NULL,
    which fails, and the rows are sorted out.
    """
    columns = [*shape.yielded, *shape.silent]
    rest = [column for column in columns if column not in shape.key]
    update: sql.Composable = sql.SQL("")
    if rest:
        update = sql.SQL(
            "when matched and record_image_ne(row({old}), row({new})) {kept} then update set {assignments}"
        ).format(
            kept=sql.SQL(KEPT if shape.told and "record_id" in shape.yielded else ""),
            old=names(rest, "t"),
            new=names(rest, "s"),
            assignments=sql.SQL(", ").join([_assign(shape, column) for column in rest] + shape.stamp()),
        )
    merged = sql.SQL(
        """
        merge into {target} t using ({typed}) s on {same_key}
        {update}
        when not matched then insert ({columns}) values ({values})
        returning merge_action() as action, {new} - case merge_action() when 'UPDATE' then {old} else 0 end as hash
            {let_go}
        """
    ).format(
        target=shape.target,
        typed=shape.typed(),
        same_key=shape.same_key("t", "s"),
        update=update,
        columns=names(columns),
        values=names(columns, "s"),
        new=shape.hashed("new"),
        old=shape.hashed("old"),
        let_go=sql.SQL("").join(
            sql.SQL(", case when old.{0} is distinct from new.{0} then old.{0} end as {0}").format(
                sql.Identifier(column)
            )
            for column, _ in shape.shared_references()
        ),
    )
    notes = sql.SQL("").join(
        sql.SQL(", {} as (insert into {} select {} from merged where {} is not null)").format(
            sql.Identifier(f"note_{column}"), loose, sql.Identifier(column), sql.Identifier(column)
        )
        for column, loose in shape.shared_references()
    )
    return sql.SQL(
        """
        with merged as ({merged}){notes}
        select count(*) filter (where action = 'INSERT') as created,
            count(*) filter (where action = 'UPDATE') as updated,
            coalesce(sum(hash), 0) as digest,
            (select count(*) from {incoming}) as yielded
        from merged
        """
    ).format(merged=merged, notes=notes, incoming=shape.incoming)


def _assign(shape: TableSpec, column: str) -> sql.Composed:
    if column != "record_id" or shape.told:
        return sql.SQL("{} = {}").format(sql.Identifier(column), sql.Identifier("s", column))
    return sql.SQL(
        """record_id = case
            when t.record_id = s.record_id or exists (select from scope c where c.record_id = t.record_id)
            then s.record_id
        end"""
    ).format()


def sweep(shape: TableSpec) -> sql.Composed:
    """Deletes the shared rows that nothing refers to any more, of those let go in this run; as `prune` does."""
    (key,) = shape.key
    delete = sql.SQL(
        "delete from {target} t where t.{key} in (select key from {loose}) and not {referred} {mention}"
    ).format(
        target=shape.target,
        key=sql.Identifier(key),
        loose=shape.loose,
        referred=_referred(shape),
        mention=sql.SQL("and t.record_id is null" if shape.told else ""),
    )
    return sql.SQL(
        "with gone as ({} returning {} as hash)"
        " select count(*) as deleted, coalesce(sum(hash), 0) as digest, 0 as held from gone"
    ).format(delete, shape.hashed("t"))
