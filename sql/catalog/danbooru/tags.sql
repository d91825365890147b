-- One row per tag that a post has, or that has a record of its own.
with tagged as (
    select p.source, ops.tag_name(n.name) as normalized_name
    from tags as p
    cross join json_table(p.body, '$' columns (name text path '$.name')) as n
    union all
    select p.source, ops.tag_name(w.spelling) as normalized_name
    from posts as p
    cross join json_table(p.body, 'strict $.keyvalue() ? (@.key like_regex "^tag_string")' columns (
        words   text path '$.value'
    )) as k
    cross join string_to_table(k.words, ' ') as w (spelling)
)

select distinct
    ops.key(t.source, t.normalized_name)                as tag_id,
    ops.key(t.source)                                   as source_id,
    replace(t.normalized_name, '_', ' ')                as name,
    t.normalized_name
from tagged as t
where t.normalized_name <> ''
