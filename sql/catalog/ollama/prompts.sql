-- One row per model of the local server that has a system prompt.
select
    ops.key(p.source, n.model, n.tag, 'local', 'system') as prompt_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    ops.key(p.source, n.model)                          as model_id,
    ops.key(p.source, n.model, n.tag, 'local')          as model_version_id,
    m.system                                            as text,
    '{"role": "system"}'::jsonb                         as metadata
from shown as p
cross join lateral (
    select
        regexp_replace(p.external_id, ':[^:/]*$', '')                   as model,
        coalesce(substring(p.external_id from ':([^:/]*)$'), 'latest')  as tag
) as n
cross join json_table(p.body, '$' columns (system text path '$.system')) as m
where m.system ~ '\S'
