-- One row per model: its newest commit, or its main branch if the payload has no commit.
select
    ops.key(p.source, p.external_id, v.external_id)     as model_version_id,
    p.record_id,
    ops.key(p.source, p.external_id)                    as model_id,
    v.external_id,
    left(v.external_id, 12)                             as version_label,
    m.last_modified                                     as published_at
from payloads as p
cross join json_table(p.body, '$' columns (
    sha             text path '$.sha',
    last_modified   text path '$.lastModified'
)) as m
cross join lateral (
    select coalesce(m.sha, 'main') as external_id
) as v
