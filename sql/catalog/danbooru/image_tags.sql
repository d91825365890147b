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
        ops.tag_name(w.spelling)                        as normalized_name,
        min(w.spelling collate "C")                     as spelling,
        min(nullif(substr(k.field, 12), '') collate "C")   as category
    from json_table(p.body, 'strict $.keyvalue() ? (@.key like_regex "^tag_string")' columns (
        field   text path '$.key',
        words   text path '$.value'
    )) as k
    cross join string_to_table(k.words, ' ') as w (spelling)
    group by ops.tag_name(w.spelling)
) as t
where t.normalized_name <> ''
