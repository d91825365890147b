"""The SQL statements that write one table: prune, MERGE, delete unreferenced shared rows.

Each statement that writes returns how many rows it changed, and by how much the digest of the table changes.
"""

from psycopg import sql

from pipelines.schema.declare import audit_columns
from pipelines.schema.table_spec import TableSpec, UniqueKey, names
from pipelines.transform.conditions import is_referenced, keyed, refers_of_applications, same_values
from pipelines.transform.incoming import IncomingTable

OBSERVATIONS_OF_CHANGE_SET = """(
    select s.record_id, e.stream, e.observed_at
    from change_set_observations s join staging.observations e using (observation_id)
) c where t.observed_at = c.observed_at and"""


ALL_RECORDS = "left join change_set c using (record_id) where"


def keep(incoming: IncomingTable, *, complete: bool) -> sql.Composed:
    """Makes those rows an application's that `prune` would delete and that a row of an application refers to.

    The next transform applies the rows that are pending for them. Returns how many rows are `kept`, and `digest`.
    """
    return sql.SQL(
        """
        with kept as (
            update {target} u set from_source = false
            from (select t.tableoid as row_part, t.ctid as row_place from {unyielded} and {refers}) as k
            where (u.tableoid, u.ctid) = (k.row_part, k.row_place)
            returning {hash} as hash, {key} as key
        ),
        noted as (insert into staging.changed_rows (table_name, key) select {name}, key from kept)
        select count(*) as kept, coalesce(sum(hash), 0) as digest from kept
        """
    ).format(
        target=incoming.spec.target,
        unyielded=_unyielded(incoming, complete=complete),
        refers=refers_of_applications(incoming.spec, "t"),
        hash=incoming.spec.row_hash("u"),
        key=incoming.spec.key_text("u"),
        name=sql.Literal(incoming.spec.name),
    )


def prune(incoming: IncomingTable, *, complete: bool, referenced: bool) -> sql.Composed:
    """Deletes the rows of records of the change set that no SELECT yields any more, but those that are referenced.

    Returns for each stream: deleted, digest, and how many rows are `postponed` because another row refers to them.
    complete: deletes also the rows of records that are not in the change set. referenced: deletes those that are
    referenced too.
    """
    spec = incoming.spec
    return PRUNE.format(
        postponed=sql.SQL("false") if referenced else is_referenced(spec, but_pruned=True),
        target=spec.target,
        unyielded=_unyielded(incoming, complete=complete),
        key=names(spec.key, "t"),
        hash=spec.row_hash("t"),
    )


def _unyielded(incoming: IncomingTable, *, complete: bool) -> sql.Composed:
    """The rows `t` from sources that no SELECT yields any more, of records `c`, as FROM and WHERE."""
    spec = incoming.spec
    of_records = OBSERVATIONS_OF_CHANGE_SET if spec.time_series else "change_set c where"
    records = ALL_RECORDS if complete else f", {of_records} t.record_id = c.record_id and"
    return sql.SQL("{} t {} {} and not exists (select from {} o where {})").format(
        spec.target, sql.SQL(records), spec.from_source("t"), incoming.identifier, spec.same_key("o", "t")
    )


PRUNE = sql.SQL(
    """
    with unyielded as materialized (
        select t.tableoid as row_part, t.ctid as row_place, c.stream as row_stream, {key} from {unyielded}
    ),
    pruned as materialized (
        select row_part, row_place, row_stream as stream, {postponed} as postponed from unyielded t
    ),
    deleted as (
        delete from {target} t using pruned p
        where (t.tableoid, t.ctid) = (p.row_part, p.row_place) and not p.postponed
        returning p.stream, {hash} as hash
    )
    select p.stream, count(*) filter (where not postponed) as deleted, count(*) filter (where postponed) as postponed,
        coalesce((select sum(d.hash) from deleted d where d.stream is not distinct from p.stream), 0) as digest
    from pruned p group by p.stream
    """
)


def create_referenced(spec: TableSpec, *, complete: bool) -> sql.Composed:
    """Creates `referenced_<table>`: the keys of a shared table to which rows of the change set refer before the run.

    complete: all keys of the table.
    """
    keys: list[sql.Composable] = [sql.SQL("select null::uuid as key where false")]
    if complete:
        keys.append(sql.SQL("select {} from {}").format(sql.Identifier(*spec.key), spec.target))
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
        select count(*) as deleted, coalesce(sum(hash), 0) as digest from deleted
        """
    ).format(
        target=spec.target,
        key=sql.Identifier(*spec.key),
        keys=_referenced(spec),
        referenced=is_referenced(spec),
        hash=spec.row_hash("t"),
    )


def merge(incoming: IncomingTable) -> sql.Composed:
    """Inserts new rows of a table and updates those that differ; returns created, updated, added, yielded, digest.

    A row of a record outside the change set must not change its owner, and a row of an application must not change: a
    column that is not null becomes NULL, which the table refuses.
    """
    spec = incoming.spec
    rest = [column for column in spec.content if column not in spec.key]
    assigned = {column: sql.SQL("{}").format(sql.Identifier("s", column)) for column in rest}
    if spec.applications:
        may_change = sql.SQL("t.record_id is not null and (not t.from_source or {})").format(OF_CHANGE_SET)
        assigned["from_source"] = ONLY_IF.format(
            may_change if spec.owned else sql.SQL("t.from_source"), sql.SQL("true")
        )
    elif spec.owned:
        assigned["record_id"] = ONLY_IF.format(OF_CHANGE_SET, assigned["record_id"])
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in assigned.items()]
    if "updated_at" in audit_columns(spec.table):
        assignments.append(sql.SQL("updated_at = now()").format())
    differs = sql.SQL("record_image_ne(row({}), row({}))").format(names(rest, "t"), names(rest, "s"))
    inserted = [sql.Identifier(column) for column in spec.content]
    values: list[sql.Composable] = [sql.Identifier("s", column) for column in spec.content]
    if spec.applications:
        differs = sql.SQL("({} or not t.from_source)").format(differs)
        inserted.append(sql.Identifier("from_source"))
        values.append(sql.SQL("true"))
    return MERGE.format(
        target=spec.target,
        rows=incoming.typed_rows(),
        same_key=spec.same_key("t", "s"),
        update=UPDATE.format(differs, sql.SQL(", ").join(assignments)) if rest else sql.SQL(""),
        columns=sql.SQL(", ").join(inserted),
        values=sql.SQL(", ").join(values),
        new=spec.row_hash("new"),
        old=spec.row_hash("old"),
        was_from_source=spec.from_source("old"),
    )


UPDATE = sql.SQL("when matched and {} then update set {}")

MERGE = sql.SQL(
    """
    with merged as (
        merge into {target} t using ({rows}) s on {same_key}
        {update}
        when not matched then insert ({columns}) values ({values})
        returning merge_action() as action, merge_action() = 'UPDATE' and {was_from_source} as was_there,
            {new} as hash, {old} as old_hash
    )
    select count(*) filter (where action = 'INSERT') as created,
        count(*) filter (where action = 'UPDATE') as updated,
        count(*) filter (where not was_there) as added,
        coalesce(sum(hash - case when was_there then old_hash else 0 end), 0) as digest,
        (select count(*) from ({rows}) s) as yielded
    from merged
    """
)


def free_values(incoming: IncomingTable, key: UniqueKey, *, complete: bool) -> sql.Composed | None:
    """Replaces the values of a unique key in rows of the change set where another row takes them; returns `digest`.

    A unique index is checked row by row, so that rows could not exchange values in one statement. What a freed row is
    to have, or that it goes, follows in the same transaction. None where no column can hold another value.
    """
    spec = incoming.spec
    deciding = spec.read_by(key.where.as_string())
    for column in sorted(incoming.yielded.keys() & set(key.columns)):
        if other := _other_value(spec, column, decides=column in deciding):
            of_change_set = sql.SQL("exists (select from change_set c where c.record_id = t.record_id)")
            return FREE.format(
                target=spec.target,
                column=sql.Identifier(column),
                other=other,
                held=keyed(key, PLACED.format(spec.target)),
                taken=incoming.keyed_rows(key),
                same_values=same_values(key, "t", "s"),
                same_key=spec.same_key("t", "s"),
                replaced=of_change_set if not complete else sql.SQL("true"),
                from_source=spec.from_source("t"),
                new=spec.row_hash("new"),
                old=spec.row_hash("old"),
            )
    return None


def _other_value(spec: TableSpec, column: str, *, decides: bool) -> sql.Composable | None:
    """A value that no row of a source has, as SQL over a row `t`; None for a type that has none.

    decides: the condition of the key reads the column, so that the opposite of a boolean frees it.
    """
    type_ = spec.type_of(column).lower()
    if type_ == "boolean" and decides:
        return sql.SQL("not t.{}").format(sql.Identifier(column))
    if spec.table.columns[column].foreign_keys:
        return sql.NULL if spec.table.columns[column].nullable else None
    number = sql.SQL("row_number() over ()")
    if type_ == "text":
        return sql.SQL("'~' || {}").format(spec.key_text("t"))
    if type_ == "uuid":
        return sql.SQL("uuidv4()")
    if most := {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}.get(type_):
        return sql.SQL("{} - {}").format(sql.Literal(most), number)
    if type_.startswith("timestamp"):
        return sql.SQL("timestamptz '290000-01-01' + {} * interval '1 s'").format(number)
    return sql.NULL if spec.table.columns[column].nullable else None


PLACED = sql.SQL("(select r.tableoid as row_part, r.ctid as row_place, r.* from {} r)")

FREE = sql.SQL(
    """
    with freed as (
        update {target} u set {column} = f.other
        from (
            select t.row_part, t.row_place, {other} as other from {held} as t
            where {from_source} and {replaced}
              and exists (select from {taken} as s where {same_values} and not ({same_key}))
        ) as f
        where (u.tableoid, u.ctid) = (f.row_part, f.row_place)
        returning {new} - {old} as hash
    )
    select coalesce(sum(hash), 0) as digest from freed
    """
)

OF_CHANGE_SET = sql.SQL(
    "(t.record_id = s.record_id or exists (select from change_set c where c.record_id = t.record_id))"
)

ONLY_IF = sql.SQL("case when {} then {} end")
"""Of a column that is not null: the table refuses the row otherwise."""
