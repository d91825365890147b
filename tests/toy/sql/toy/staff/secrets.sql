-- One row per password and token of a member of the staff, each as its keyed hash.
select
    ops.key(p.source, p.external_id, u.id, s.name) as secret_id,
    p.record_id,
    u.id                                           as user_id,
    s.name,
    s.value
from payloads as p
cross join json_table(p.body, '$.users[*]' columns (
    id            text path '$.id',
    password_hash text path '$.password_hash',
    tokens        jsonb path '$.tokens'
)) as u
cross join lateral (
    select 'password' as name, u.password_hash as value
    where u.password_hash is not null
    union all
    select 'token ' || t.name as name, t.value
    from json_table(u.tokens, '$[*]' columns (name text path '$.name', value text path '$.value')) as t
) as s
