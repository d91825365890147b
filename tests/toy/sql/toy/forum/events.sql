-- One row per event in the payload.
select
    ops.key(e.id) as event_id,
    e.happened_at,
    p.record_id,
    ops.key(lower(e.username)) as user_id,
    e.kind
from payloads as p
cross join json_table(p.body, '$.events[*]' columns (
    id          text path '$.id',
    happened_at text path '$.at',
    username    text path '$.user',
    kind        text path '$.kind'
)) as e
