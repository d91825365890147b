-- How many models are there of each type and base model, and how big is what can be downloaded?
select
    m.type,
    v.metadata ->> 'baseModel' as base_model,
    count(distinct m.model_id) as models,
    count(distinct v.model_version_id) as versions,
    round(sum(a.size_bytes) / 1e9, 1) as gigabytes
from catalog.models as m
join catalog.model_versions as v using (model_id)
left join catalog.artifacts as a using (model_version_id)
group by m.type, base_model
order by models desc, versions desc, m.type, base_model
limit 12
