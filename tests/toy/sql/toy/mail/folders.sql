-- One row per folder in the payload.
select
    ops.key(p.source, f.id)     as folder_id,
    p.record_id,
    ops.key(p.source, f.username) as user_id,
    ops.key(p.source, f.parent) as parent_id,
    f.name
from payloads as p
cross join json_table(p.body, '$.folders[*]' columns (
    id       text path '$.id',
    username text path '$.user',
    parent   text path '$.parent',
    name     text path '$.name'
)) as f
