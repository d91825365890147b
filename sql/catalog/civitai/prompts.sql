-- One row per image whose metadata has a prompt; if several versions have the image, the one with the smallest id.
select
    ops.key(i.source, i.external_id)                    as prompt_id,
    i.record_id,
    ops.key(i.source)                                   as source_id,
    i.model_id,
    i.model_version_id,
    ops.key(i.source, i.external_id)                    as image_id,
    m.text,
    m.negative_text,
    i.meta - array['prompt', 'negativePrompt']          as metadata
from (
    select
        p.source,
        p.record_id,
        ops.key(p.source, p.external_id)                as model_id,
        ops.key(p.source, s.version)                    as model_version_id,
        s.external_id,
        s.meta
    from models as p
    cross join lateral (
        select distinct on (e.external_id)
            n.version,
            e.external_id,
            case when n.prompt is not null then n.meta else n.inner_meta end as meta
        from json_table(p.body, '$.modelVersions[*]' columns (
            version             text path '$.id',
            version_number      numeric path '$.id',
            nested path '$.images[*]' columns (
                position        for ordinality,
                id              text path '$.id',
                url             text path '$.url',
                meta            jsonb path '$.meta',
                prompt          text path '$.meta.prompt',
                inner_meta      jsonb path '$.meta.meta',
                inner_prompt    text path '$.meta.meta.prompt'
            )
        )) as n
        -- An image without an id gets the same external_id as in images.sql.
        cross join lateral (
            select coalesce(
                n.id,
                substring(n.url from '/([0-9]+)[.][0-9A-Za-z]+$'),
                substring(n.url from '/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'),
                n.url
            ) as external_id
        ) as e
        where coalesce(n.prompt, n.inner_prompt) ~ '\S'
        order by e.external_id, n.version_number nulls last, n.version collate "C", n.position
    ) as s
    union all
    select
        p.source,
        p.record_id,
        null,
        (
            select ops.key(p.source, v.external_id)
            from json_table(p.body, '$.modelVersionIds[*]' columns (
                external_id     text path '$',
                number          numeric path '$'
            )) as v
            where v.external_id is not null
            order by v.number nulls last, v.external_id collate "C"
            limit 1
        ),
        p.external_id,
        case when n.prompt is not null then n.meta else n.inner_meta end
    from images as p
    cross join json_table(p.body, '$' columns (
        meta            jsonb path '$.meta',
        prompt          text path '$.meta.prompt',
        inner_meta      jsonb path '$.meta.meta'
    )) as n
) as i
-- Some answers wrap the metadata as {"id": …, "meta": {"prompt": …}}; i.meta is the inner object.
cross join json_table(i.meta, '$' columns (
    text            text path '$.prompt',
    negative_text   text path '$.negativePrompt'
)) as m
where m.text ~ '\S'
