-- One row per model and time at which its counters changed.
select
    ops.key(o.source, o.external_id)                    as model_id,
    o.observed_at,
    o.record_id,
    s.downloads,
    s.likes,
    nullif(
        case when jsonb_typeof(o.body) = 'object' then o.body - array['downloads', 'likes'] else o.body end,
        '{}'
    )                                                   as metadata
from observations as o
cross join json_table(o.body, '$' columns (
    downloads       text path '$.downloads',
    likes           text path '$.likes'
)) as s
