-- One row per author and topic; of several spellings of a topic, the smallest.
select
    ops.key(p.source, p.external_id)                    as author_id,
    ops.key(p.source, ops.tag_name(n.spelling))         as topic_id,
    p.record_id,
    min(n.spelling collate "C")                         as spelling
from authors as p
cross join json_table(p.body, '$.topics[*] ? (@ != null)' columns (spelling text path '$')) as n
group by p.source, p.external_id, p.record_id, ops.tag_name(n.spelling)
