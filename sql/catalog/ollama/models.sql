-- One row per model of the library, and one per model of the local server; the engine keeps the library's of the two.
select
    ops.key(p.source, p.external_id)                    as model_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    p.external_id,
    p.external_id                                       as name,
    -- The description shows whether it is an embedding model.
    case when p.external_id ~* 'embed|\mbge\M' or m.description ~* 'embed' then 'Other' else 'LLM' end as type,
    m.description,
    case when c.is_uncensored then 'Questionable' else 'Safe' end as nsfw_rating,
    case when jsonb_typeof(p.body) = 'object' then p.body - array[t.key, c.key] else p.body end as raw
from library as p
cross join json_table(p.body, '$' columns (description text path '$.description')) as m
-- A list stays in raw if one of its elements gets no row: a tag that is not an object, or a category that is blank or
-- occurs twice.
cross join lateral (
    select case when count(*) = count(*) filter (where jsonb_typeof(n.body) = 'object') then 'tags' end as key
    from json_table(p.body, 'strict $.tags.keyvalue()' columns (body jsonb path '$.value')) as n
) as t
cross join lateral (
    select
        bool_or(ops.tag_name(n.spelling) = 'uncensored') as is_uncensored,
        case when count(*) = count(distinct nullif(ops.tag_name(n.spelling), '')) then 'categories' end as key
    from json_table(p.body, '$.categories[*]' columns (spelling text path '$')) as n
) as c
union all
-- The local server describes one tag of the model, so its values are in model_versions.
select
    ops.key(p.source, n.model)                          as model_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    n.model                                             as external_id,
    n.model                                             as name,
    case when n.model ~* 'embed|\mbge\M' or m.family ~* 'bert' or c.is_embedding then 'Other' else 'LLM' end as type,
    null                                                as description,
    'Unknown'                                           as nsfw_rating,
    '{}'::jsonb                                         as raw
from local as p
cross join lateral (
    select regexp_replace(p.external_id, ':[^:/]*$', '') as model
) as n
cross join json_table(p.body, '$' columns (family text path '$.details.family')) as m
cross join lateral (
    select bool_or(n.capability = 'embedding') as is_embedding
    from json_table(p.body, '$.capabilities[*]' columns (capability text path '$')) as n
) as c
