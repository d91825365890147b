-- One row per tag that a model has; what stands before a colon is its category.
select distinct
    ops.key(p.source, t.normalized_name)                as tag_id,
    ops.key(p.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name,
    substring(t.normalized_name from '^([^:]+):')       as category
from payloads as p
cross join lateral (
    select ops.tag_name(n.spelling) as normalized_name
    from json_table(p.body, '$.tags[*]' columns (spelling text path '$')) as n
) as t
where t.normalized_name <> ''
