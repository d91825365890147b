-- One row per author.
select
    ops.key(p.source, p.external_id)    as author_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    p.external_id,
    a.name,
    coalesce(a.genre, 'Other')          as genre,
    a.about,
    translate(a.languages::text, '[]', '{}')    as languages,
    p.body - array['stats', 'books', 'topics']  as raw
from authors as p
cross join json_table(p.body, '$' columns (
    name        text path '$.name',
    genre       text path '$.genre',
    about       text path '$.about',
    languages   jsonb path '$.languages'
)) as a
