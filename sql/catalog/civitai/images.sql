-- One row per image of the image listing or of a model; if several versions have it, the one with the smallest id.
select
    ops.key(i.source, i.external_id)                    as image_id,
    i.record_id,
    ops.key(i.source)                                   as source_id,
    i.model_id,
    i.model_version_id,
    i.external_id,
    f.url,
    f.width,
    f.height,
    case
        when r.level >= 8 or r.name in ('X', 'XXX') then 'Explicit'
        when r.level >= 2 or r.name in ('Soft', 'Mature', 'PG-13', 'R') then 'Questionable'
        when r.level >= 1 or r.name in ('None', 'PG') then 'Safe'
        when f.is_nsfw then 'Explicit'
        when not f.is_nsfw then 'Safe'
        else 'Unknown'
    end                                                 as rating,
    case
        when jsonb_typeof(i.body) = 'object' then i.body - array['id', 'url', 'width', 'height']
        else i.body
    end                                                 as metadata
from (
    select
        p.source,
        p.record_id,
        ops.key(p.source, p.external_id)                as model_id,
        ops.key(p.source, s.version)                    as model_version_id,
        s.external_id,
        s.body
    from models as p
    cross join lateral (
        select distinct on (e.external_id)
            n.version,
            e.external_id,
            n.body
        from json_table(p.body, '$.modelVersions[*]' columns (
            version             text path '$.id',
            version_number      numeric path '$.id',
            nested path '$.images[*]' columns (
                position        for ordinality,
                id              text path '$.id',
                url             text path '$.url',
                body            jsonb path '$'
            )
        )) as n
        -- An image without an id is identified by the number in its file name, else the uuid in its path, else its url.
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
    ) as s
    union all
    -- The image listing has the ids of versions, but not of models.
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
        p.body
    from images as p
) as i
cross join json_table(i.body, '$' columns (
    url             text path '$.url',
    width           text path '$.width',
    height          text path '$.height',
    browsing_level  numeric path '$.browsingLevel',
    level           numeric path '$.nsfwLevel',
    level_name      text path '$.nsfwLevel',
    nsfw            text path '$.nsfw',
    is_nsfw         boolean path '$.nsfw'
)) as f
cross join lateral (
    select
        coalesce(f.browsing_level, f.level)             as level,
        coalesce(f.level_name, f.nsfw)                  as name
) as r
