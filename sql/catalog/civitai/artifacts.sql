-- One row per file of a model version; of files of a version with the same sha256, the one with the smallest id.
select
    ops.key(p.source, f.version, f.external_id)         as artifact_id,
    p.record_id,
    ops.key(p.source, f.version)                        as model_version_id,
    f.external_id,
    f.kind,
    f.file_name,
    case
        when abs(f.size_kb) < 1e100 then round(f.size_kb * 1024)
        else f.size_kb
    end                                                 as size_bytes,
    f.sha256,
    f.url,
    case when jsonb_typeof(f.body -> 'hashes') = 'object' then f.body #- '{hashes,SHA256}' else f.body end
    - case
        when f.kind = 'Other' then array['id', 'name', 'sizeKB', 'downloadUrl']
        else array['id', 'name', 'sizeKB', 'downloadUrl', 'type']
    end                                                 as metadata
from models as p
cross join lateral (
    select distinct on (n.version, lower(n.sha256), case when n.sha256 is null then n.position end)
        n.version,
        n.external_id,
        case
            when n.type in ('Model', 'Config', 'VAE') then n.type
            when n.type = 'Training Data' then 'TrainingData'
            when n.type = 'Pruned Model' then 'Pruned'
            else 'Other'
        end             as kind,
        n.file_name,
        n.size_kb,
        lower(n.sha256) as sha256,
        n.url,
        n.body
    from json_table(p.body, '$.modelVersions[*]' columns (
        version             text path '$.id',
        nested path '$.files[*]' columns (
            position        for ordinality,
            external_id     text path '$.id',
            number          numeric path '$.id',
            type            text path '$.type',
            file_name       text path '$.name',
            size_kb         numeric path '$.sizeKB',
            sha256          text path '$.hashes.SHA256',
            url             text path '$.downloadUrl',
            body            jsonb path '$'
        )
    )) as n
    where jsonb_typeof(n.body) = 'object'
    order by
        n.version,
        lower(n.sha256),
        case when n.sha256 is null then n.position end,
        n.number nulls last,
        n.external_id collate "C",
        n.position
) as f
