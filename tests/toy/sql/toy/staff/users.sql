-- One row per member of the staff in the payload.
select
    u.id as user_id,
    p.record_id,
    u.username,
    u.email
from payloads as p
cross join json_table(p.body, '$.users[*]' columns (
    id       text path '$.id',
    username text path '$.username',
    email    text path '$.email'
)) as u
