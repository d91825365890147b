-- Which models gained most downloads between the first and the last time their counters were seen?
select
    m.source,
    m.name as model,
    min(c.observed_at)::date as first_seen,
    max(c.observed_at)::date as last_seen,
    min(c.downloads) as downloads_then,
    max(c.downloads) as downloads_now
from catalog.model_stats as c
join marts.models as m using (model_id)
group by m.source, m.model_id, m.name
having max(c.downloads) > min(c.downloads)
order by max(c.downloads) - min(c.downloads) desc, m.name
limit 8
