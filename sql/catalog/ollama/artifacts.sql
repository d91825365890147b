-- One row per package that is pulled by a tag, and one per file of weights that the local server shows.
select
    ops.key(p.source, p.external_id, t.tag, 'package')  as artifact_id,
    p.record_id,
    ops.key(p.source, p.external_id, t.tag)             as model_version_id,
    p.external_id || ':' || t.tag                       as external_id,
    'Model'                                             as kind,
    p.external_id || ':' || t.tag                       as file_name,
    -- Rounded, in units of 1,000: 4.9GB.
    case
        when t.size ~ '^[0-9]{1,9}([.][0-9]{1,9})?[KMGT]?B$' then round(
            substring(t.size from '^[0-9.]+')::numeric
            * case substring(t.size from '[KMGT]?B$')
                when 'KB' then 1e3 when 'MB' then 1e6 when 'GB' then 1e9 when 'TB' then 1e12 else 1
            end
        )::text
        else t.size
    end                                                 as size_bytes,
    null                                                as sha256,
    jsonb_build_object('size', t.body -> 'size')        as metadata
from library as p
cross join json_table(p.body, 'strict $.tags.keyvalue()' columns (
    tag             text path '$.key',
    size            text path '$.value.size',
    body            jsonb path '$.value'
)) as t
where jsonb_typeof(t.body) = 'object'
union all
select
    ops.key(p.source, n.model, n.tag, 'local', 'package') as artifact_id,
    p.record_id,
    ops.key(p.source, n.model, n.tag, 'local')          as model_version_id,
    p.external_id,
    'Model'                                             as kind,
    p.external_id                                       as file_name,
    m.size                                              as size_bytes,
    null                                                as sha256,
    null                                                as metadata
from local as p
cross join lateral (
    select
        regexp_replace(p.external_id, ':[^:/]*$', '')                   as model,
        coalesce(substring(p.external_id from ':([^:/]*)$'), 'latest')  as tag
) as n
cross join json_table(p.body, '$' columns (size text path '$.size')) as m
union all
-- The modelfile names the weights by their sha256: FROM /…/blobs/sha256-…; a model that runs elsewhere has none.
select
    ops.key(p.source, n.model, n.tag, 'local', 'weights') as artifact_id,
    p.record_id,
    ops.key(p.source, n.model, n.tag, 'local')          as model_version_id,
    coalesce(w.sha256, p.external_id)                   as external_id,
    case when w.sha256 is not null then 'Model' else 'Other' end as kind,
    coalesce('sha256-' || w.sha256, p.external_id)      as file_name,
    null                                                as size_bytes,
    w.sha256,
    case
        when jsonb_typeof(p.body) = 'object' and m.system ~ '\S' then p.body - 'system'
        else p.body
    end                                                 as metadata
from shown as p
cross join lateral (
    select
        regexp_replace(p.external_id, ':[^:/]*$', '')                   as model,
        coalesce(substring(p.external_id from ':([^:/]*)$'), 'latest')  as tag
) as n
cross join json_table(p.body, '$' columns (
    modelfile       text path '$.modelfile',
    system          text path '$.system'
)) as m
cross join lateral (
    select substring(m.modelfile from '(?n)^FROM .*sha256[-:]([0-9a-f]{64})\s*$') as sha256
) as w
