-- One row per author in the payload.
select
    ops.key(p.source, a.external_id)    as author_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    a.external_id,
    a.name,
    coalesce(a.genre, 'Other')          as genre,
    jsonb_build_object()                as raw
from payloads as p
cross join json_table(p.body, '$.authors[*]' columns (
    external_id text path '$.id',
    name        text path '$.name',
    genre       text path '$.genre'
)) as a
