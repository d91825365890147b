-- One row per cover in the payload.
select
    ops.key(p.source, c.external_id)    as cover_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    case when c.book is not null then ops.key(p.source, c.book) end as book_id,
    c.external_id,
    c.url,
    c.width,
    c.height
from payloads as p
cross join json_table(p.body, '$.covers[*]' columns (
    external_id text path '$.id',
    book        text path '$.book',
    url         text path '$.url',
    width       text path '$.width',
    height      numeric path '$.height'
)) as c
