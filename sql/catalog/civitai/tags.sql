-- One row per tag that a model has.
select distinct
    ops.key(p.source, t.normalized_name)                as tag_id,
    ops.key(p.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name
from models as p
cross join lateral (
    select ops.tag_name(coalesce(n.word, n.name)) as normalized_name
    from json_table(p.body, '$.tags[*]' columns (
        word    text path '$',
        name    text path '$.name'
    )) as n
) as t
where t.normalized_name <> ''
