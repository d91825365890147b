-- One row per model of the library and time at which its counters changed.
select
    ops.key(o.source, o.external_id)                    as model_id,
    o.observed_at,
    o.record_id,
    -- Rounded: 54.3M.
    case
        when s.pulls ~ '^[0-9]{1,9}([.][0-9]{1,9})?[KMB]?$' then round(
            substring(s.pulls from '^[0-9.]+')::numeric
            * case right(s.pulls, 1) when 'K' then 1e3 when 'M' then 1e6 when 'B' then 1e9 else 1 end
        )::text
        else s.pulls
    end                                                 as downloads,
    case when jsonb_typeof(o.body) = 'object' then o.body - 'pullCount' else o.body end as metadata
from library_observations as o
cross join json_table(o.body, '$' columns (pulls text path '$.pullCount')) as s
