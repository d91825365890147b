-- One row per payload with words.
select
    ops.key(p.source, p.identity)       as note_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    p.external_id,
    n.words,
    n.number,
    n.place,
    n.key,
    n.rank
from payloads as p
cross join json_table(p.body, '$' columns (
    words       text path '$.words',
    number      text path '$.number',
    place       text path '$.place',
    key         text path '$.key',
    rank        text path '$.rank'
)) as n
where n.words is not null
