-- One row per prompt whose image and model may be shown, where it has them; of the ratings in atlas.ratings, else Safe.
select
    p.prompt_id,
    p.image_id,
    p.model_id,
    p.model_version_id,
    p.workflow_id,
    s.name          as source,
    p.text,
    p.negative_text,
    p.metadata,
    p.record_id
from catalog.prompts as p
join ops.sources as s on s.source_id = p.source_id
left join catalog.images as i on i.image_id = p.image_id
left join catalog.models as m on m.model_id = p.model_id
where (i.rating is null or ops.shown(i.rating))
  and (m.nsfw_rating is null or ops.shown(m.nsfw_rating))
