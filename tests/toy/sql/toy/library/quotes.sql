-- One row per cover of a book with a quote on it.
select
    ops.key(p.source, c.cover)          as quote_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    ops.key(p.source, p.external_id)    as author_id,
    ops.key(p.source, c.cover)          as cover_id,
    c.text
from authors as p
cross join json_table(p.body, '$.books[*].covers[*]' columns (
    cover       text path '$.id',
    text        text path '$.quote'
)) as c
where c.text is not null
