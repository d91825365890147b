-- One row per tag of a model in the library, and one per model of the local server, labelled as local.
select
    ops.key(p.source, p.external_id, t.tag)             as model_version_id,
    p.record_id,
    ops.key(p.source, p.external_id)                    as model_id,
    p.external_id || ':' || t.tag                       as external_id,
    t.tag                                               as version_label,
    t.body - array['size', 'extractedAt']               as metadata
from library as p
cross join json_table(p.body, 'strict $.tags.keyvalue()' columns (
    tag             text path '$.key',
    body            jsonb path '$.value'
)) as t
where jsonb_typeof(t.body) = 'object'
union all
select
    ops.key(p.source, n.model, n.tag, 'local')          as model_version_id,
    p.record_id,
    ops.key(p.source, n.model)                          as model_id,
    p.external_id,
    n.tag || ' (local)'                                 as version_label,
    case when jsonb_typeof(p.body) = 'object' then p.body - array['name', 'size'] else p.body end as metadata
from local as p
cross join lateral (
    select
        regexp_replace(p.external_id, ':[^:/]*$', '')                   as model,
        coalesce(substring(p.external_id from ':([^:/]*)$'), 'latest')  as tag
) as n
