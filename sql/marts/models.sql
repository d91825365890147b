-- One row per model that is rated Safe, or as the setting atlas.ratings lists.
select
    m.model_id,
    s.name          as source,
    m.external_id,
    m.name,
    m.type,
    m.description,
    m.nsfw_rating   as rating,
    c.downloads,
    c.likes,
    c.rating        as mean_rating,
    c.observed_at   as counted_at,
    m.record_id
from catalog.models as m
join ops.sources as s on s.source_id = m.source_id
left join lateral (
    select e.downloads, e.likes, e.rating, e.observed_at
    from catalog.model_stats as e
    where e.model_id = m.model_id
    order by e.observed_at desc
    limit 1
) as c on true
where ops.rating_visible(m.nsfw_rating)
