-- One row per topic that an author has.
select distinct
    ops.key(p.source, t.normalized_name)        as topic_id,
    ops.key(p.source)                           as source_id,
    replace(t.normalized_name, '_', ' ')        as name,
    t.normalized_name
from authors as p
cross join lateral (
    select ops.tag_name(n.spelling) as normalized_name
    from json_table(p.body, '$.topics[*] ? (@ != null)' columns (spelling text path '$')) as n
) as t
