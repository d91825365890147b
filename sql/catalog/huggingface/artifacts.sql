-- One row per file of a model's newest revision; of files with the same sha256, the one with the smallest name.
select
    ops.key(p.source, p.external_id, f.revision, f.file_name)   as artifact_id,
    p.record_id,
    ops.key(p.source, p.external_id, f.revision)                as model_version_id,
    f.file_name                                                 as external_id,
    case
        when f.file_name ~* '[.](safetensors|bin|gguf|ggml|pt|pth|ckpt|onnx|onnx_data|h5|keras|msgpack|tflite|ot)$'
            then 'Model'
        when f.file_name ~* '[.](json|ya?ml|toml)$' then 'Config'
        else 'Other'
    end                                                         as kind,
    f.file_name,
    f.size_bytes,
    f.sha256,
    -- Relative to the base URL of the source.
    '/' || p.external_id || '/resolve/' || f.revision || '/'
    || replace(replace(replace(replace(f.file_name, '%', '%25'), '?', '%3F'), '#', '%23'), ' ', '%20')
                                                                as url,
    nullif(
        case when jsonb_typeof(f.body -> 'lfs') = 'object' then f.body #- '{lfs,sha256}' else f.body end
            - array['rfilename', 'size'],
        '{}'
    )                                                           as metadata
from payloads as p
cross join lateral (
    select distinct on (lower(n.sha256), case when n.sha256 is null then n.position end)
        coalesce(n.sha, 'main')                                 as revision,
        n.file_name,
        coalesce(n.size, n.lfs_size)                            as size_bytes,
        lower(n.sha256)                                         as sha256,
        n.body
    from json_table(p.body, '$' columns (
        sha                 text path '$.sha',
        nested path '$.siblings[*]' columns (
            position        for ordinality,
            file_name       text path '$.rfilename',
            size            text path '$.size',
            lfs_size        text path '$.lfs.size',
            sha256          text path '$.lfs.sha256',
            body            jsonb path '$'
        )
    )) as n
    where jsonb_typeof(n.body) = 'object'
    order by
        lower(n.sha256),
        case when n.sha256 is null then n.position end,
        n.file_name collate "C",
        n.position
) as f
