-- Which files are published in more than one place, by content?
select
    left(a.sha256, 12) as sha256,
    count(distinct m.model_id) as models,
    string_agg(distinct m.name, ' · ' order by m.name) as published_as
from catalog.artifacts as a
join catalog.model_versions as v using (model_version_id)
join marts.models as m using (model_id)
where a.sha256 is not null
group by a.sha256
having count(distinct v.model_version_id) > 1
order by models desc, sha256
limit 10
