-- One row per tag: a category of the library, or a capability of a model.
with spellings as (
    select p.source, n.spelling
    from library as p
    cross join json_table(p.body, '$.categories[*]' columns (spelling text path '$')) as n
    union all
    select p.source, n.spelling
    from library as p
    cross join json_table(p.body, '$.tags.*.capabilities[*]' columns (spelling text path '$')) as n
    union all
    select p.source, n.spelling
    from local as p
    cross join json_table(p.body, '$.capabilities[*]' columns (spelling text path '$')) as n
    union all
    select p.source, n.spelling
    from shown as p
    cross join json_table(p.body, '$.capabilities[*]' columns (spelling text path '$')) as n
)

select distinct
    ops.key(m.source, t.normalized_name)                as tag_id,
    ops.key(m.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name
from spellings as m
cross join lateral (
    select ops.tag_name(m.spelling) as normalized_name
) as t
where t.normalized_name <> ''
