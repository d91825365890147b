-- One row per image of a model; of several versions that show it, it belongs to the one with the smallest id.
select
    ops.key(p.source, i.external_id)                    as image_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    ops.key(p.source, p.external_id)                    as model_id,
    ops.key(p.source, p.external_id, i.version)         as model_version_id,
    i.external_id,
    i.url,
    i.width,
    i.height,
    case
        when i.level >= 8 or i.rating in ('X', 'XXX') then 'Explicit'
        when i.level >= 2 or i.rating in ('Soft', 'Mature', 'PG-13', 'R') then 'Questionable'
        when i.level >= 1 or i.rating in ('None', 'PG') then 'Safe'
        when i.is_nsfw then 'Explicit'
        when not i.is_nsfw then 'Safe'
        else 'Unknown'
    end                                                 as rating,
    i.body - array['id', 'url', 'width', 'height']      as metadata
from payloads as p
cross join lateral (
    select distinct on (e.external_id)
        n.version,
        e.external_id,
        n.url,
        n.width,
        n.height,
        n.level,
        n.is_nsfw,
        coalesce(n.level_name, n.nsfw) as rating,
        n.body
    from json_table(p.body, '$.modelVersions[*]' columns (
        version             text path '$.id',
        version_number      numeric path '$.id',
        nested path '$.images[*]' columns (
            position        for ordinality,
            id              text path '$.id',
            url             text path '$.url',
            width           text path '$.width',
            height          text path '$.height',
            level           numeric path '$.nsfwLevel',
            level_name      text path '$.nsfwLevel',
            nsfw            text path '$.nsfw',
            is_nsfw         boolean path '$.nsfw',
            body            jsonb path '$'
        )
    )) as n
    -- Without an id: the number the file is named by, else the uuid in its path, else the url.
    cross join lateral (
        select coalesce(
            n.id,
            substring(n.url from '/([0-9]+)[.][0-9A-Za-z]+$'),
            substring(n.url from '/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'),
            n.url
        ) as external_id
    ) as e
    where jsonb_typeof(n.body) = 'object'
    order by e.external_id, n.version_number nulls last, n.version collate "C", n.position
) as i
