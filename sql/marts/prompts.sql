-- One row per prompt whose image and model, if any, are rated Safe, or as the setting atlas.ratings lists.
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
where case
        when i.image_id is not null then ops.rating_visible(i.rating)
        -- Pending for an image that has not come: its rating is unknown.
        when exists (
            select from staging.pending_rows as w
            where w.record_id = p.record_id and w.table_name = 'catalog.images' and w.reason = 'parent'
        ) then ops.rating_visible('Unknown')
        else true
    end
  and (m.nsfw_rating is null or ops.rating_visible(m.nsfw_rating))
