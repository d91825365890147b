-- One row per model.
select
    ops.key(p.source, p.external_id)                    as model_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    p.external_id,
    m.name,
    case
        when m.type in (
            'Checkpoint', 'TextualInversion', 'Hypernetwork', 'AestheticGradient', 'LORA',
            'Controlnet', 'Poses', 'VAE', 'LLM', 'Other'
        ) then m.type
        else 'Other'
    end                                                 as type,
    m.description,
    case
        when m.nsfw then 'Explicit'
        when not m.nsfw then 'Safe'
        else 'Unknown'
    end                                                 as nsfw_rating,
    case
        when jsonb_typeof(p.body) = 'object' then p.body - array['stats', v.key, t.key]
        else p.body
    end                                                 as raw
from models as p
cross join json_table(p.body, '$' columns (
    name            text path '$.name',
    type            text path '$.type',
    description     text path '$.description',
    nsfw            boolean path '$.nsfw'
)) as m
-- A list stays in raw if one of its elements gets no row: a version that is not an object, or a tag that is not a
-- string, is blank, or occurs twice.
cross join lateral (
    select case when count(*) = count(*) filter (where jsonb_typeof(n.body) = 'object') then 'modelVersions' end as key
    from json_table(p.body, '$.modelVersions[*]' columns (body jsonb path '$')) as n
) as v
cross join lateral (
    select case when count(*) = count(distinct nullif(ops.tag_name(n.spelling), '')) then 'tags' end as key
    from json_table(p.body, '$.tags[*]' columns (spelling text path '$')) as n
) as t
