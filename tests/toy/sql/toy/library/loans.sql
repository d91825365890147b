-- One row per author and time at which the counters changed.
select
    ops.key(o.source, o.external_id)    as author_id,
    o.observed_at,
    o.record_id,
    s.loans,
    s.rating
from authors_observations as o
cross join json_table(o.body, '$' columns (
    loans       text path '$.stats.loans',
    rating      text path '$.stats.rating'
)) as s
