-- Which tags do several sources use, and on how many models and images?
select
    t.normalized_name as tag,
    string_agg(distinct split_part(s.name, '/', 2), ', ' order by split_part(s.name, '/', 2)) as sources,
    coalesce(max(d.category), max(it.category), max(t.category)) as category,
    count(distinct mt.model_id) as models,
    count(distinct it.image_id) as images
from catalog.tags as t
join ops.sources as s using (source_id)
left join catalog.tag_definitions as d using (tag_id)
left join catalog.model_tags as mt using (tag_id)
left join catalog.image_tags as it using (tag_id)
group by t.normalized_name
having count(distinct s.source_id) > 1
order by count(distinct s.source_id) desc, count(distinct mt.model_id) + count(distinct it.image_id) desc, tag
limit 8
