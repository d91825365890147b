"""The SQL statements that write one table: prune, MERGE, delete unreferenced shared rows.

Each statement that writes returns how many rows it changed, and by how much the digest of the table changes.
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.declare import audit_columns
from pipelines.warehouse.table_spec import TableSpec, names

OBSERVATIONS_OF_CHANGE_SET = """(
    select s.record_id, e.stream, e.observed_at
    from change_set_observations s join staging.observations e using (observation_id)
) c where t.observed_at = c.observed_at and"""


def prune(incoming: IncomingTable, *, referenced: bool = False) -> sql.Composed:
    """Deletes the rows of records of the change set that no SELECT yields any more, but those that are referenced.

    Returns for each stream: deleted, digest, and how many were kept because a row refers to them. referenced: deletes
    those too.
    """
    return sql.SQL(
        """
        with pruned as materialized (
            select t.ctid as place, c.stream, {referenced} as kept from {target} t, {records} t.record_id = c.record_id
              and not exists (select from {incoming} o where {same_key})
        ),
        deleted as (
            delete from {target} t using pruned p where t.ctid = p.place and not p.kept
            returning p.stream, {hash} as hash
        )
        select p.stream, count(*) filter (where not p.kept) as deleted, count(*) filter (where p.kept) as kept,
            coalesce((select sum(d.hash) from deleted d where d.stream = p.stream), 0) as digest
        from pruned p group by p.stream
        """
    ).format(
        referenced=sql.SQL("false") if referenced else is_referenced(incoming.spec),
        target=incoming.spec.target,
        records=sql.SQL(OBSERVATIONS_OF_CHANGE_SET if incoming.spec.time_series else "change_set c where"),
        incoming=incoming.identifier,
        same_key=incoming.spec.same_key("o", "t"),
        hash=incoming.spec.row_hash("t"),
    )


def create_referenced(spec: TableSpec) -> sql.Composed:
    """Creates `referenced_<table>`: the keys of a shared table to which rows of the change set refer before the run."""
    keys: list[sql.Composable] = [sql.SQL("select null::uuid as key where false")]
    of_change_set = sql.SQL("select t.{} from {} t join change_set c using (record_id)")
    keys += [of_change_set.format(sql.Identifier(col), table.target) for table, col in spec.referrers if table.owned]
    return sql.SQL("create temp table {} on commit drop as {}").format(_referenced(spec), sql.SQL(" union ").join(keys))


def _referenced(spec: TableSpec) -> sql.Identifier:
    return sql.Identifier(f"referenced_{spec.table.name}")


def delete_unreferenced(spec: TableSpec) -> sql.Composed:
    """Deletes the rows of a shared table that are in `referenced_<table>` and to which no row refers any more.

    Returns what `prune` returns, of all streams.
    """
    return sql.SQL(
        """
        with deleted as (
            delete from {target} t where t.{key} in (select key from {keys}) and not {referenced}
            returning {hash} as hash
        )
        select count(*) as deleted, coalesce(sum(hash), 0) as digest, 0 as kept from deleted
        """
    ).format(
        target=spec.target,
        key=sql.Identifier(*spec.key),
        keys=_referenced(spec),
        referenced=is_referenced(spec),
        hash=spec.row_hash("t"),
    )


def merge(spec: TableSpec, rows: sql.Composable, *, owners_stay: bool) -> sql.Composed:
    """Inserts new rows of a table and updates those that differ; returns created, updated, yielded, digest.

    rows: a table, or a query in parentheses. owners_stay: a row of a record outside the change set must not change its
    owner; its record_id becomes NULL, which the table refuses.
    """
    columns = spec.content
    rest = [column for column in columns if column not in spec.key]
    assignments = [
        sql.SQL("{} = {}").format(
            sql.Identifier(column), OWNER if owners_stay and column == "record_id" else sql.Identifier("s", column)
        )
        for column in rest
    ]
    if "updated_at" in audit_columns(spec.table):
        assignments.append(sql.SQL("updated_at = now()").format())
    update = sql.SQL("when matched and record_image_ne(row({}), row({})) then update set {}").format(
        names(rest, "t"), names(rest, "s"), sql.SQL(", ").join(assignments)
    )
    return sql.SQL(
        """
        with merged as (
            merge into {target} t using {rows} s on {same_key}
            {update}
            when not matched then insert ({columns}) values ({values})
            returning merge_action() as action, {new} - case merge_action() when 'UPDATE' then {old} else 0 end as hash
        )
        select count(*) filter (where action = 'INSERT') as created,
            count(*) filter (where action = 'UPDATE') as updated,
            coalesce(sum(hash), 0) as digest,
            (select count(*) from {rows} s) as yielded
        from merged
        """
    ).format(
        target=spec.target,
        rows=rows,
        same_key=spec.same_key("t", "s"),
        update=update if rest else sql.SQL(""),
        columns=names(columns),
        values=names(columns, "s"),
        new=spec.row_hash("new"),
        old=spec.row_hash("old"),
    )


OWNER = sql.SQL(
    """case
        when t.record_id = s.record_id or exists (select from change_set c where c.record_id = t.record_id)
        then s.record_id
    end"""
)


def is_referenced(spec: TableSpec, places: Sequence[tuple[sql.Composable, str]] = ()) -> sql.Composable:
    """The condition that any row refers to a row `t`. places: further tables with a column that may."""
    places = [*((table.target, column) for table, column in spec.referrers), *places]
    refers, key = sql.SQL("exists (select from {} r where r.{} = t.{})"), sql.Identifier(*spec.key)
    referring = [refers.format(place, sql.Identifier(column), key) for place, column in places]
    return sql.SQL("({})").format(sql.SQL(" or ").join(referring)) if referring else sql.SQL("false")
