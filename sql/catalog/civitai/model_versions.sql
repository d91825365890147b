-- One row per version of a model; of versions with the same label, all but the one with the smallest id get their id
-- appended to it.
select
    ops.key(p.source, v.external_id)                    as model_version_id,
    p.record_id,
    ops.key(p.source, p.external_id)                    as model_id,
    v.external_id,
    case
        when v.repeat = 1 then v.label
        else (
            -- Of as many candidates as there are versions, at least one is not the label of another version.
            select left(v.label, 255 - length(c.suffix)) || c.suffix
            from generate_series(1, cardinality(v.labels)) as g (n)
            cross join lateral (
                select ' (' || v.external_id || case when g.n > 1 then ', ' || g.n else '' end || ')' as suffix
            ) as c
            where left(v.label, 255 - length(c.suffix)) || c.suffix <> all(v.labels)
            order by g.n
            limit 1
        )
    end                                                 as version_label,
    (
        select lower(f.sha256)
        from json_table(v.body, '$.files[*]' columns (
            external_id     text path '$.id',
            number          numeric path '$.id',
            is_primary      boolean path '$.primary',
            sha256          text path '$.hashes.SHA256'
        )) as f
        order by f.is_primary desc nulls last, f.number nulls last, f.external_id collate "C"
        limit 1
    )                                                   as checksum,
    v.body - array['files', 'images']                   as metadata,
    coalesce(v.published_at, v.created_at)              as published_at
from models as p
cross join lateral (
    select
        n.*,
        row_number() over (
            partition by n.label
            order by n.number nulls last, n.external_id collate "C", n.position
        )                                                           as repeat,
        array_agg(n.label) filter (where n.label is not null) over ()  as labels
    from json_table(p.body, '$.modelVersions[*]' columns (
        position        for ordinality,
        external_id     text path '$.id',
        number          numeric path '$.id',
        label           text path '$.name',
        published_at    text path '$.publishedAt',
        created_at      text path '$.createdAt',
        body            jsonb path '$'
    )) as n
    where jsonb_typeof(n.body) = 'object'
) as v
