-- One row per tag: of its own record, which owns it, and of the posts that refer to it.
select
    ops.key(p.source, t.normalized_name)                as tag_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name,
    case t.category
        when '0' then 'general'
        when '1' then 'artist'
        when '3' then 'copyright'
        when '4' then 'character'
        when '5' then 'meta'
        else t.category
    end                                                 as category
from tags as p
cross join lateral (
    select
        nullif(ops.tag_name(n.name), '')                as normalized_name,
        n.category
    from json_table(p.body, '$' columns (
        name        text path '$.name',
        category    text path '$.category'
    )) as n
) as t
union all
select distinct
    ops.key(p.source, t.normalized_name)                as tag_id,
    null::uuid                                          as record_id,
    ops.key(p.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name,
    null                                                as category
from posts as p
cross join lateral (
    select ops.tag_name(w.spelling) as normalized_name
    from json_table(p.body, 'strict $.keyvalue() ? (@.key like_regex "^tag_string")' columns (
        words   text path '$.value'
    )) as k
    cross join string_to_table(k.words, ' ') as w (spelling)
) as t
where t.normalized_name <> ''
