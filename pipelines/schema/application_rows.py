"""Guards of rows from sources in tables where applications write too, and the notice of what applications change.

    an application ──insert, update, delete──> guard: a row from a source is read-only ──> staging.changed_rows

Both are triggers, which are silent for the engine: its sessions set `atlas.engine`, which counts only for members of
the role `atlas_loader`, and for superusers.
"""

import json

from psycopg import sql
from sqlalchemy import Table

from pipelines.schema.declare import audit_columns
from pipelines.schema.objects import function, on_table
from pipelines.schema.table_spec import TableSpec, names

NOT_ENGINE = """(coalesce(current_setting('atlas.engine', true), '') <> 'on'
    or not pg_has_role(session_user, 'atlas_loader', 'usage'))"""


function(
    "ops.refuse_change()",
    """create or replace function ops.refuse_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    before jsonb := case when tg_op = 'INSERT' then '{}' else to_jsonb(old) end;
    after jsonb := case when tg_op = 'DELETE' then '{}' else to_jsonb(new) end;
    source text;
begin
    if tg_op = 'UPDATE' and before - tg_argv = after - tg_argv then
        return new;
    end if;
    select split_part(v.stream, '.', 1) into source from staging.versions v
    where v.record_id = (coalesce(before ->> 'record_id', after ->> 'record_id'))::uuid and v.latest;
    raise exception 'A row of %.% is from %: an application cannot change it',
        tg_table_schema, tg_table_name, coalesce('the source ' || source, 'a source')
        using errcode = '42501', table = tg_table_name, schema = tg_table_schema,
            hint = 'Change it at its source: it arrives with the next run.';
end $$""",
    "Refuses the change of a row from a source, but for the columns in its arguments",
)

function(
    "ops.note_change()",
    """create or replace function ops.note_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' as $$
declare
    noted jsonb;
    statement text;
begin
    -- The SQL in the arguments runs with the rights of the owner: nobody else may call this in a trigger.
    for noted in select argument::jsonb from unnest(tg_argv) as u (argument) loop
        statement := format(
            'insert into staging.changed_rows (table_name, key)
            select %L, key from (select (%s)::text as key from (select ($1).*) as r) as k where key <> ''''',
            noted ->> 'table', noted ->> 'key');
        if tg_op <> 'DELETE' then
            execute statement using new;
        end if;
        if tg_op <> 'INSERT' then
            execute statement using old;
        end if;
    end loop;
    return null;
end $$""",
    "Notes key and identity of a row that an application changes, and the keys of its parents, for which rows from "
    "sources may be pending; arguments: {table, key} of each, the key as SQL over the row",
)

function(
    "ops.refuse_key_of_other_partition()",
    """create or replace function ops.refuse_key_of_other_partition() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    key text := (select string_agg(format('($1).%I', name), ', ') from unnest(tg_argv[2:]) as name);
    is_taken boolean;
begin
    execute format('select pg_advisory_xact_lock(hashtextextended(concat_ws('' '', %L, %s), 0))', tg_argv[0], key)
        using new;
    execute format(
        'select exists (select from %1$s as t where (%2$s) = (%3$s) and t.%4$I <> ($1).%4$I
            and not coalesce((%3$s) = (%5$s) and t.%4$I = ($2).%4$I, false))',
        tg_argv[0], replace(key, '($1)', 't'), key, tg_argv[1], replace(key, '($1)', '($2)'))
        into is_taken using new, old;
    if is_taken then
        raise exception 'Another partition of % has a row of this key', tg_argv[0] using errcode = '23505';
    end if;
    return new;
end $$""",
    "Refuses a key that another partition has, as no index does; arguments: table, time, the rest of its key",
)

function(
    "ops.set_updated_at()",
    """create or replace function ops.set_updated_at() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end $$""",
    "Sets updated_at of a row that an application changes",
)


def declare_triggers(table: Table) -> None:
    """Declares the triggers of a table in which applications write."""
    spec = TableSpec(table)

    def trigger(name: str, event: str, call: str, comment: str, condition: str = "true") -> None:
        create = f"create trigger {name} {event} on {spec.name} for each row when ({condition} and {NOT_ENGINE})"
        on_table("trigger", name, spec.name, f"{create} execute function {call}", comment)

    if spec.applications:
        own = ", ".join(f"'{name}'" for name in sorted(spec.columns_of_applications | {"updated_at"}))
        refuse, comment = f"ops.refuse_change({own})", "A row from a source is read-only for applications"
        trigger("insert_is_refused", "before insert", refuse, comment, "new.from_source")
        trigger("update_is_refused", "before update or delete", refuse, comment, "old.from_source")
    if spec.applications and spec.partition_column:
        key = ", ".join(f"'{each}'" for each in (spec.name, spec.partition_column, *spec.unique_keys[0].columns))
        refuse, comment = f"ops.refuse_key_of_other_partition({key})", "The key is unique without the time in it"
        trigger("key_is_unique", "before insert or update", refuse, comment)
    if spec.written_by_applications:
        noted = [(spec.name, f"concat_ws(' ', {names(spec.key).as_string()})")]
        noted += [(spec.name, spec.identity)] if spec.identity else []
        noted += [(TableSpec(each.table).name, names([each.column]).as_string()) for each in spec.references]
        keys = ", ".join(sql.Literal(json.dumps({"table": of, "key": key})).as_string() for of, key in noted)
        comment = "Rows from sources that are pending for a changed row are applied by the next transform"
        trigger("change_is_noted", "after insert or update or delete", f"ops.note_change({keys})", comment)
        if "updated_at" in audit_columns(table):
            trigger("updated_at_is_set", "before update", "ops.set_updated_at()", "When an application changed the row")
