-- Which models gained most downloads between the first and the last time their counters were seen?
select
    s.name as source,
    m.name as model,
    min(c.observed_at)::date as first_seen,
    max(c.observed_at)::date as last_seen,
    min(c.downloads) as downloads_then,
    max(c.downloads) as downloads_now
from catalog.model_stats as c
join catalog.models as m using (model_id)
join ops.sources as s using (source_id)
group by s.name, m.model_id
having max(c.downloads) > min(c.downloads)
order by max(c.downloads) - min(c.downloads) desc, m.name
limit 8
