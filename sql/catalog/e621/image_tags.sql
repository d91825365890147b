-- One row per image and tag; of several spellings of a tag, the smallest.
select
    ops.key(p.source, p.external_id)                    as image_id,
    ops.key(p.source, t.normalized_name)                as tag_id,
    p.record_id,
    t.spelling,
    t.category
from posts as p
cross join lateral (
    select
        ops.tag_name(n.spelling)                        as normalized_name,
        min(n.spelling collate "C")                     as spelling,
        min(k.category collate "C")                     as category
    from json_table(p.body, '$.tags.keyvalue()' columns (
        category    text path '$.key',
        words       jsonb path '$.value'
    )) as k
    cross join json_table(k.words, '$[*]' columns (spelling text path '$')) as n
    group by ops.tag_name(n.spelling)
) as t
where t.normalized_name <> ''
