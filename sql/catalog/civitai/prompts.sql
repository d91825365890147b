-- One row per image whose metadata has a prompt; of several versions that show it, the one with the smallest id.
select
    ops.key(p.source, i.external_id)                    as prompt_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    ops.key(p.source, p.external_id)                    as model_id,
    ops.key(p.source, p.external_id, i.version)         as model_version_id,
    ops.key(p.source, i.external_id)                    as image_id,
    i.text,
    i.negative_text,
    i.meta - array['prompt', 'negativePrompt']          as metadata
from payloads as p
cross join lateral (
    select distinct on (e.external_id)
        n.version,
        e.external_id,
        m.text,
        m.negative_text,
        m.meta
    from json_table(p.body, '$.modelVersions[*]' columns (
        version                 text path '$.id',
        version_number          numeric path '$.id',
        nested path '$.images[*]' columns (
            position            for ordinality,
            id                  text path '$.id',
            url                 text path '$.url',
            meta                jsonb path '$.meta',
            prompt              text path '$.meta.prompt',
            negative            text path '$.meta.negativePrompt',
            inner_meta          jsonb path '$.meta.meta',
            inner_prompt        text path '$.meta.meta.prompt',
            inner_negative      text path '$.meta.meta.negativePrompt'
        )
    )) as n
    -- Some answers wrap it as {"id": …, "meta": {"prompt": …}}.
    cross join lateral (
        select
            case when n.prompt is not null then n.prompt else n.inner_prompt end        as text,
            case when n.prompt is not null then n.negative else n.inner_negative end    as negative_text,
            case when n.prompt is not null then n.meta else n.inner_meta end            as meta
    ) as m
    -- Without an id: as in images.
    cross join lateral (
        select coalesce(
            n.id,
            substring(n.url from '/([0-9]+)[.][0-9A-Za-z]+$'),
            substring(n.url from '/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'),
            n.url
        ) as external_id
    ) as e
    where m.text ~ '\S'
    order by e.external_id, n.version_number nulls last, n.version collate "C", n.position
) as i
