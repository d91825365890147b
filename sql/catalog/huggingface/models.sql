-- One row per model.
select
    ops.key(p.source, p.external_id)                    as model_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    p.external_id,
    p.external_id                                       as name,
    -- Tags come before the pipeline: an adapter for text generation is an adapter.
    case
        when t.is_adapter then 'LORA'
        when t.is_controlnet then 'Controlnet'
        when t.is_embedding then 'TextualInversion'
        when t.is_vae then 'VAE'
        when m.pipeline_tag in (
            'text-generation', 'text2text-generation', 'conversational', 'image-text-to-text', 'audio-text-to-text',
            'video-text-to-text', 'any-to-any'
        ) then 'LLM'
        when m.pipeline_tag in (
            'text-to-image', 'image-to-image', 'image-text-to-image', 'unconditional-image-generation',
            'text-to-video', 'image-to-video', 'image-text-to-video', 'video-to-video'
        ) then 'Checkpoint'
        else 'Other'
    end                                                 as type,
    -- The content policy of the hub requires the tag not-for-all-audiences.
    case
        when t.is_for_adults then 'Questionable'
        when m.tags is not null then 'Safe'
        else 'Unknown'
    end                                                 as nsfw_rating,
    case
        when jsonb_typeof(p.body) = 'object' then p.body - array[s.key, t.key]
        else p.body
    end                                                 as raw
from payloads as p
cross join json_table(p.body, '$' columns (
    pipeline_tag    text path '$.pipeline_tag',
    tags            jsonb path '$.tags'
)) as m
-- A list stays in raw if one of its elements gets no row: a tag that is blank or occurs twice, a file that is not an
-- object or occurs twice.
cross join lateral (
    select
        bool_or(
            n.tag in ('lora', 'adapter', 'peft') or n.tag ~ '^base_model:adapter:'
        )                                                                           as is_adapter,
        bool_or(n.tag = 'controlnet')                                               as is_controlnet,
        bool_or(n.tag in ('textual_inversion', 'textual-inversion'))                as is_embedding,
        bool_or(n.tag in ('vae', 'diffusers:autoencoderkl'))                        as is_vae,
        bool_or(n.tag = 'not-for-all-audiences')                                    as is_for_adults,
        case when count(*) = count(distinct nullif(n.tag, '')) then 'tags' end      as key
    from (
        select ops.tag_name(n.spelling) as tag
        from json_table(p.body, '$.tags[*]' columns (spelling text path '$')) as n
    ) as n
) as t
cross join lateral (
    select
        case
            when count(*) = count(distinct coalesce(lower(n.sha256), n.file_name)) then 'siblings'
        end as key
    from json_table(p.body, '$.siblings[*]' columns (
        file_name       text path '$.rfilename',
        sha256          text path '$.lfs.sha256'
    )) as n
) as s
