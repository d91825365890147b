-- One row per model, tag and record that has the tag; of several spellings of a tag, the smallest.
with spellings as (
    select p.source, p.record_id, p.external_id as model, n.spelling
    from library as p
    cross join json_table(p.body, '$.categories[*]' columns (spelling text path '$')) as n
    union all
    select p.source, p.record_id, p.external_id, n.spelling
    from library as p
    cross join json_table(p.body, '$.tags.*.capabilities[*]' columns (spelling text path '$')) as n
    union all
    select p.source, p.record_id, regexp_replace(p.external_id, ':[^:/]*$', ''), n.spelling
    from local as p
    cross join json_table(p.body, '$.capabilities[*]' columns (spelling text path '$')) as n
    union all
    select p.source, p.record_id, regexp_replace(p.external_id, ':[^:/]*$', ''), n.spelling
    from shown as p
    cross join json_table(p.body, '$.capabilities[*]' columns (spelling text path '$')) as n
)

select
    ops.key(m.source, m.model)                          as model_id,
    ops.key(m.source, t.normalized_name)                as tag_id,
    m.record_id,
    min(m.spelling collate "C")                         as spelling
from spellings as m
cross join lateral (
    select ops.tag_name(m.spelling) as normalized_name
) as t
where t.normalized_name <> ''
group by m.source, m.model, m.record_id, t.normalized_name
