-- One row per post in the payload.
select
    ops.key(p.source, t.id)     as post_id,
    p.record_id,
    ops.key(lower(t.username)) as user_id,
    ops.key(p.source, t.folder) as folder_id,
    t.number,
    coalesce(t.pinned, 'false')::boolean as pinned,
    t.title,
    t.labels,
    t.embedding
from payloads as p
cross join json_table(p.body, '$.posts[*]' columns (
    id       text path '$.id',
    username text path '$.user',
    folder   text path '$.folder',
    number   text path '$.number',
    pinned   text path '$.pinned',
    title    text path '$.title',
    labels   text[] path '$.labels',
    embedding jsonb path '$.embedding'
)) as t
