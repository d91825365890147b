-- One row per tag that has a record of its own.
select
    ops.key(p.source, 'tag', p.external_id)             as tag_definition_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    case
        when t.normalized_name <> '' then ops.key(p.source, t.normalized_name)
    end                                                 as tag_id,
    p.external_id,
    t.name,
    case t.category
        when '0' then 'general'
        when '1' then 'artist'
        when '2' then 'contributor'
        when '3' then 'copyright'
        when '4' then 'character'
        when '5' then 'species'
        when '6' then 'invalid'
        when '7' then 'meta'
        when '8' then 'lore'
        else t.category
    end                                                 as category
from tags as p
cross join lateral (
    select
        ops.tag_name(n.name)                            as normalized_name,
        n.name,
        n.category
    from json_table(p.body, '$' columns (
        name        text path '$.name',
        category    text path '$.category'
    )) as n
) as t
