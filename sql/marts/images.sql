-- One row per image that is rated Safe, or as the setting atlas.ratings lists.
select
    i.image_id,
    i.model_id,
    i.model_version_id,
    s.name          as source,
    i.external_id,
    i.rating,
    i.url,
    i.preview_url,
    i.width,
    i.height,
    i.md5,
    i.sha256,
    i.record_id
from catalog.images as i
join ops.sources as s on s.source_id = i.source_id
where ops.rating_visible(i.rating)
