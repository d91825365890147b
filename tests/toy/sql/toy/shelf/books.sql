-- One row per book in the payload; `part` must not be 0.
select
    ops.key(p.source, b.external_id)    as book_id,
    p.record_id,
    ops.key(p.source, b.author)         as author_id,
    b.external_id,
    b.title,
    jsonb_build_object('parts', 12 / coalesce(b.part, '1')::integer) as metadata
from payloads as p
cross join json_table(p.body, '$.books[*]' columns (
    external_id text path '$.id',
    author      text path '$.author',
    title       text path '$.title',
    part        text path '$.part'
)) as b
