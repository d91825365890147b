-- Where did the newest models come from: which request, which run, which version of the payload?
select
    m.name as model,
    v.request,
    v.received_at,
    left(encode(p.digest, 'hex'), 12) as payload,
    r.fetch_run_id as landed_by
from marts.models as m
join staging.effective_versions as v on v.record_id = m.record_id
join staging.payloads as p on p.payload_id = v.payload_id
join ops.fetch_runs as r on r.fetch_run_id = v.landed_run
order by v.received_at desc, m.external_id desc
limit 5
