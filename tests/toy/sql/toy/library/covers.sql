-- One row per cover of the listing of covers or of a book; of the books of an author, the one with the smallest id.
select
    ops.key(c.source, c.external_id)    as cover_id,
    c.record_id,
    ops.key(c.source)                   as source_id,
    c.author_id,
    c.book_id,
    c.external_id,
    f.url,
    f.width,
    f.height,
    c.body - array['id', 'url', 'width', 'height', 'book'] as metadata
from (
    select distinct on (p.record_id, b.external_id)
        p.source,
        p.record_id,
        ops.key(p.source, p.external_id) as author_id,
        ops.key(p.source, b.book)        as book_id,
        b.external_id,
        b.body
    from authors as p
    cross join json_table(p.body, '$.books[*] ? (@ != null)' columns (
        book            text path '$.id',
        nested path '$.covers[*] ? (@ != null)' columns (
            external_id     text path '$.id',
            body            jsonb path '$'
        )
    )) as b
    where b.external_id is not null
    order by p.record_id, b.external_id, b.book collate "C"
) as c
cross join json_table(c.body, '$' columns (
    url         text path '$.url',
    width       text path '$.width',
    height      numeric path '$.height'
)) as f
union all
select
    ops.key(p.source, p.external_id),
    p.record_id,
    ops.key(p.source),
    null,
    ops.key(p.source, f.book),
    p.external_id,
    f.url,
    f.width,
    f.height,
    p.body - array['id', 'url', 'width', 'height', 'book']
from covers as p
cross join json_table(p.body, '$' columns (
    url         text path '$.url',
    width       text path '$.width',
    height      numeric path '$.height',
    book        text path '$.book'
)) as f
