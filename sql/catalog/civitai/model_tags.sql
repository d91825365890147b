-- One row per model and tag; of several spellings of a tag, the smallest.
select
    ops.key(p.source, p.external_id)                    as model_id,
    ops.key(p.source, t.normalized_name)                as tag_id,
    p.record_id,
    t.spelling
from models as p
cross join lateral (
    select
        ops.tag_name(coalesce(n.word, n.name))          as normalized_name,
        min(coalesce(n.word, n.name) collate "C")       as spelling
    from json_table(p.body, '$.tags[*]' columns (
        word    text path '$',
        name    text path '$.name'
    )) as n
    group by ops.tag_name(coalesce(n.word, n.name))
) as t
where t.normalized_name <> ''
