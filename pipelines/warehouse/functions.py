"""The functions of `ops` that SELECT files share: keys, tag names, ratings, volatile fields.

Belongs here: functions that read no table. Not: those that do (`staging_views`).
"""

from pipelines.warehouse.objects import function

for arity in range(1, 7):
    names = "abcdef"[:arity]
    function(
        f"ops.key({', '.join(['text'] * arity)})",
        f"""create or replace function ops.key({", ".join(f"{name} text" for name in names)})
returns uuid language sql immutable parallel safe
return md5({" || ',' || ".join(f"quote_nullable({name})" for name in names)})::uuid""",
        "Surrogate key of a natural key: md5 of an unambiguous join, as uuid",
    )

function(
    "ops.tag_name(text)",
    """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc) collate pg_c_utf8), '[\\s_]+', '_', 'g'))""",
    "A tag as every source spells it: NFKC, lower case, trimmed, runs of spaces and underscores as one underscore",
)

function(
    "ops.rating_visible(text)",
    """create or replace function ops.rating_visible(rating text)
returns boolean language sql stable parallel safe
return rating = any (string_to_array(
    replace(coalesce(nullif(current_setting('atlas.ratings', true), ''), 'Safe'), ' ', ''), ','))""",
    "Whether rows of a rating are visible: Safe, or the ratings that the setting atlas.ratings lists, by commas",
)

function(
    "ops.restore_volatile_fields(jsonb, jsonb, jsonb)",
    """create or replace function ops.restore_volatile_fields(body jsonb, counters jsonb, paths jsonb)
returns jsonb language plpgsql immutable parallel safe as $$
declare
    path text[];
begin
    for path in
        select array(select jsonb_array_elements_text(p.steps)) from jsonb_array_elements(paths) as p (steps)
    loop
        body := jsonb_set(body, path, counters #> path, false);
    end loop;
    return body;
end $$""",
    "A payload with the values of an observation at its volatile paths",
)
